import numpy as np
import pytest
import torch

from unsam_lightning.batch import Batch, Sample, collate, pack_masks, unpack_masks


def random_masks(count: int, side: int = 12) -> np.ndarray:
    return np.random.default_rng(count).random((count, side, side)) < 0.5


def sample(count: int, seed: int = 0, side: int = 12) -> Sample:
    rng = np.random.default_rng(seed)
    return Sample(
        key=f"image{seed}",
        image=rng.integers(0, 256, (side, side, 3), dtype=np.uint8),
        planes=pack_masks(random_masks(count, side)),
        granularity=rng.uniform(0.1, 1, count).astype(np.float32),
        click_from=np.zeros(count, np.int64),
        seed=seed,
    )


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 64, 70])
def test_masks_survive_packing(count: int) -> None:
    masks = random_masks(count)
    planes = pack_masks(masks)
    assert planes.dtype == np.int32
    assert planes.shape == ((count + 31) // 32, 12, 12)
    if count:
        assert (unpack_masks(torch.from_numpy(planes)[None], count)[0].numpy() == masks).all()


def test_bit_of_a_mask_is_its_number() -> None:
    masks = np.zeros((34, 1, 1), dtype=bool)
    masks[[1, 31, 33]] = True
    assert pack_masks(masks).ravel().tolist() == [2 - 2**31, 2]


def test_collate_pads_to_a_fixed_shape() -> None:
    samples = [sample(count, seed) for seed, count in enumerate((3, 40, 0))]
    batch = collate(samples, num_masks=40)
    batch.check()
    assert batch.images.shape == (3, 3, 12, 12)
    assert batch.planes.shape == (3, 2, 12, 12)
    assert batch.valid.sum(1).tolist() == [3, 40, 0]
    assert batch.keys == ["image0", "image1", "image2"]
    for b, (one, count) in enumerate(zip(samples, (3, 40, 0), strict=True)):
        assert (batch.images[b].permute(1, 2, 0).numpy() == one.image).all()
        assert (batch.granularity[b, :count].numpy() == one.granularity).all()
        assert (batch.granularity[b, count:] == 1).all()
        unpacked = unpack_masks(batch.planes, 40)[b]
        assert (unpacked[:count].numpy() == random_masks(count)).all()
        assert not unpacked[count:].any()


def test_seed_depends_on_samples_and_order_alone() -> None:
    a, b = sample(1, 5), sample(1, 6)
    assert collate([a, b], 4).seed == collate([a, b], 9).seed
    assert len({collate(samples, 4).seed for samples in ([a, b], [b, a], [a], [a, a])}) == 4
    assert 0 <= collate([a, b], 4).seed < 2**63
    # A resumed run is another process, and a cluster may hold another Python: the number itself must stay.
    assert collate([a, b], 4).seed == 2215748334205557557


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("images", torch.zeros(2, 3, 12, 12)),
        ("images", torch.zeros(1, 3, 12, 12, dtype=torch.uint8)),
        ("planes", torch.zeros(2, 2, 12, 12, dtype=torch.int32)),
        ("planes", torch.zeros(2, 1, 8, 8, dtype=torch.int32)),
        ("granularity", torch.full((2, 5), 0.05)),
        ("granularity", torch.full((2, 5), float("nan"))),
        ("valid", torch.ones(2, 5)),
        ("click_from", torch.full((2, 5), 5)),
        ("keys", ["one"]),
    ],
)
def test_check_finds_what_breaks_the_contract(field: str, value: object) -> None:
    batch = collate([sample(2), sample(5)], 5)
    values = {name: getattr(batch, name) for name in Batch.__slots__} | {field: value}
    with pytest.raises(AssertionError):
        Batch(**values).check()
