import io
import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from unsam_lightning.batch import collate, unpack_masks
from unsam_lightning.batch_order import BatchSampler
from unsam_lightning.errors import UserError
from unsam_lightning.manifest import Kind, Manifest
from unsam_lightning.pairs import PairDataset, decode_masks, encode_masks
from unsam_lightning.shards import ShardWriter

COUNTS = (3, 2)
HEIGHT, WIDTH = 30, 44


def masks_of(index: int) -> np.ndarray:
    """Image `index` has `index` masks, each a rectangle of its own."""
    masks = np.zeros((index, HEIGHT, WIDTH), dtype=bool)
    for n in range(index):
        masks[n, 2 * n : 2 * n + 9, 4 * n : 4 * n + 13] = True
    return masks


def jpeg(index: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 40 * index, dtype=np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def label(index: int) -> bytes:
    entries = [
        {"rle": rle, "granularity": round(0.1 + 0.1 * n, 1), "instance": 0, "parent": -1, "stage": "divide", "area": 1}
        for n, rle in enumerate(encode_masks(masks_of(index)))
    ]
    return json.dumps({"height": HEIGHT, "width": WIDTH, "masks": entries}).encode()


def write(folder: Path, kind: Kind, counts: tuple[int, ...] = COUNTS, first: int = 0, broken: int = -1) -> Manifest:
    shards, index = [], 0
    folder.mkdir(exist_ok=True)
    for number, count in enumerate(counts):
        with ShardWriter(folder / f"p-{number:06d}.tar") as writer:
            for _ in range(count):
                image = {"jpg": jpeg(index)[:200] if index == broken else jpeg(index), "json": b"{}"}
                writer.write(f"p-{index + first:08d}", image if kind == "images" else {"json": label(index)})
                index += 1
        assert writer.info is not None
        shards.append(writer.info)
    return Manifest(folder / "p.yaml", kind, "p", shards)


@pytest.fixture
def pairs(tmp_path: Path) -> PairDataset:
    return PairDataset(write(tmp_path / "images", "images"), write(tmp_path / "labels", "labels"), 32, 3)


def test_masks_survive_their_counts_strings() -> None:
    masks = np.random.default_rng(0).random((5, 13, 7)) < 0.5
    assert (decode_masks(encode_masks(masks), 13, 7) == masks).all()
    assert encode_masks(np.zeros((0, 13, 7), dtype=bool)) == []
    assert decode_masks([], 13, 7).shape == (0, 13, 7)


@pytest.mark.parametrize("index", range(sum(COUNTS)))
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planes_hold_exactly_the_chosen_masks(pairs: PairDataset, index: int, seed: int) -> None:
    sample = pairs[index, seed]
    assert sample.key == f"p-{index:08d}"
    assert sample.seed == seed
    assert sample.image.shape == (32, 32, 3)
    assert abs(int(sample.image.mean()) - 40 * index) <= 1
    count = min(3, index)
    assert sample.granularity.shape == (count,)
    chosen = [round(10 * float(g)) - 1 for g in sample.granularity]  # granularity 0.1 + 0.1 n is mask n
    assert len(set(chosen)) == count
    # Nearest: pixel i of 32 shows pixel floor((i + 1/2) * size / 32) of the image.
    rows, columns = (((np.arange(32) + 0.5) * size / 32).astype(int) for size in (HEIGHT, WIDTH))
    expected = masks_of(index)[chosen][:, rows[:, None], columns]
    assert (unpack_masks(torch.from_numpy(sample.planes)[None], count)[0].numpy() == expected).all()


def test_sample_is_a_pure_function_of_index_and_seed(pairs: PairDataset) -> None:
    again = pickle.loads(pickle.dumps(pairs))
    for one, two in ((pairs[4, 9], pairs[4, 9]), (pairs[4, 9], again[4, 9])):
        assert (one.image == two.image).all()
        assert (one.planes == two.planes).all()
        assert (one.granularity == two.granularity).all()
    draws = {tuple(sorted(pairs[4, seed].granularity.tolist())) for seed in range(40)}
    assert len(draws) == 4  # every choice of 3 of 4


def test_image_is_smooth_when_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = np.broadcast_to(np.arange(0, 220, 5, dtype=np.uint8)[None, :, None], (HEIGHT, WIDTH, 3))
    monkeypatch.setattr("unsam_lightning.pairs.read_image", lambda sample, shard: np.ascontiguousarray(ramp))
    images, labels = write(tmp_path / "images", "images"), write(tmp_path / "labels", "labels")
    row = PairDataset(images, labels, 4 * WIDTH, 3)[1, 0].image[0, :, 0].astype(int)
    assert set(np.diff(row[8:-8])) <= {1, 2}  # 5 grey levels over 4 pixels, without steps
    small = PairDataset(images, labels, WIDTH // 4, 3)[1, 0].image[0, :, 0].astype(int)
    assert abs(small - (7.5 + 20 * np.arange(WIDTH // 4))).max() <= 1  # the mean of four pixels


def test_labels_of_other_shards_are_refused(tmp_path: Path) -> None:
    images = write(tmp_path / "images", "images")
    with pytest.raises(UserError, match=r"p\.yaml: \[3, 2\] samples; found \[2, 3\] samples.*run `label` again"):
        PairDataset(images, write(tmp_path / "labels", "labels", (2, 3)), 32, 3)


def test_labels_of_other_keys_are_refused(tmp_path: Path) -> None:
    pairs = PairDataset(write(tmp_path / "images", "images"), write(tmp_path / "labels", "labels", first=5), 32, 3)
    with pytest.raises(UserError, match=r"labels of p-00000001 in .*; found labels of p-00000006"):
        pairs[1, 0]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_damaged_image_names_its_shard_and_key(tmp_path: Path, num_workers: int) -> None:
    images = write(tmp_path / "images", "images", broken=4)
    pairs = PairDataset(images, write(tmp_path / "labels", "labels"), 32, 3)
    loader = DataLoader(
        pairs,
        batch_sampler=BatchSampler(COUNTS, batch_size=5),
        collate_fn=partial(collate, num_masks=3),
        num_workers=num_workers,
    )
    batches: Any = iter(loader)
    with pytest.raises(UserError, match=r"^expected a readable image in p-000001\.tar, p-00000004; found 200 bytes"):
        next(batches)
    if num_workers:
        batches._shutdown_workers()  # else the error's traceback keeps them until a later collection, which waits 5 s


def test_loader_gives_the_same_batches_with_and_without_workers(pairs: PairDataset) -> None:
    def batches(num_workers: int) -> list[tuple[list[str], int, float, int]]:
        sampler = BatchSampler(COUNTS, batch_size=2, seed=4)
        loader = DataLoader(
            pairs, batch_sampler=sampler, collate_fn=partial(collate, num_masks=3), num_workers=num_workers
        )
        return [(b.keys, b.seed, float(b.granularity.sum()), int(b.planes.long().sum())) for b in loader]

    assert batches(0) == batches(2)


# The sampler


def sampler_of(done: int = 0, **options: object) -> BatchSampler:
    return BatchSampler([5, 3, 4, 6, 2], **{"batch_size": 4, "seed": 7, "batches_done": lambda: done, **options})


def many_epochs(num_batches: int, start: int = 0, **options: object) -> list[list[tuple[int, int]]]:
    """The batches of a run that has done `start`, over as many epochs as it takes."""
    found: list[list[tuple[int, int]]] = []
    while len(found) < num_batches:
        found += sampler_of(start + len(found), **options)
    return found[:num_batches]


def test_order_is_a_pure_function_of_seed_and_epoch() -> None:
    assert (sampler_of().order(3) == sampler_of(done=11).order(3)).all()
    orders = {tuple(sampler_of(seed=seed).order(epoch)) for seed in (7, 8) for epoch in (0, 1, 2)}
    assert len(orders) == 6
    assert all(sorted(order) == list(range(20)) for order in orders)


def test_shards_without_samples_take_no_places() -> None:
    # A cluster may hold another NumPy, and a run goes on in its order: the numbers themselves must stay.
    order = sampler_of(shuffle_shards=2).order(3).tolist()
    assert order == [
        0,
        17,
        14,
        16,
        4,
        3,
        15,
        2,
        1,
        13,
        12,
        9,
        11,
        19,
        10,
        8,
        18,
        7,
        5,
        6,
    ]
    few_of_many = BatchSampler([8] * 20 + [0] * 980, batch_size=4, seed=7).order(0)
    assert sorted(few_of_many) == list(range(160))
    assert len(set(few_of_many[:128] // 8)) == 16  # a whole window, and mixed
    assert len(set(few_of_many[:32] // 8)) > 8


def test_sample_seeds_differ_by_epoch_and_index_and_not_by_place() -> None:
    seeds = [pair for batch in many_epochs(10) for pair in batch]
    assert len({seed for _, seed in seeds}) == len(seeds) == 40
    assert all(0 <= seed < 2**63 for _, seed in seeds)
    assert dict(seeds[:20]) == dict(pair for batch in sampler_of(batch_size=5) for pair in batch)


def test_every_epoch_shows_each_sample_at_most_once() -> None:
    epoch = [index for batch in sampler_of(batch_size=3) for index, _ in batch]
    assert len(epoch) == len(set(epoch)) == 18  # 20 samples in whole batches of 3
    assert len(sampler_of(batch_size=3)) == 6


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_each_global_batch(world_size: int) -> None:
    together = list(sampler_of())
    ranks = [list(sampler_of(rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert {len(own) for own in ranks} == {len(together)}
    for batch, *parts in zip(together, *ranks, strict=True):
        assert {len(part) for part in parts} == {4 // world_size}
        assert sorted(pair for part in parts for pair in part) == sorted(batch)


@pytest.mark.parametrize("options", [{}, {"batches_per_epoch": 3}, {"rank": 1, "world_size": 2}])
def test_start_anywhere_is_the_tail_of_the_whole_run(options: dict[str, int]) -> None:
    whole = many_epochs(14, **options)
    for start in range(14):
        assert many_epochs(14 - start, start, **options) == whole[start:]


def test_samples_stay_in_windows_of_shards() -> None:
    ends = np.cumsum([5, 3, 4, 6, 2])
    order = sampler_of(shuffle_shards=2).order(0)
    shards = np.searchsorted(ends, order, side="right")
    visits = list(dict.fromkeys(shards.tolist()))
    sizes = [5, 3, 4, 6, 2]
    first = sum(sizes[s] for s in visits[:2])
    assert set(shards[:first]) == set(visits[:2])  # the first two shards are done before the third is opened
    assert (np.diff(order[:first]) != 1).any()
    one_by_one = sampler_of(shuffle_shards=1).order(0)
    assert len(np.flatnonzero(np.diff(np.searchsorted(ends, one_by_one, side="right")))) == 4


def test_limited_epoch_ends_early_and_the_next_has_another_order() -> None:
    sampler = sampler_of(batches_per_epoch=2)
    assert (len(list(sampler)), len(sampler)) == (2, 5)  # a Trainer takes its fraction of all
    assert list(sampler) == list(sampler_of())[:2]
    assert [i for i, _ in next(iter(sampler_of(done=2, batches_per_epoch=2)))] == sampler_of().order(1)[:4].tolist()
    assert len(list(sampler_of(batches_per_epoch=99))) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"world_size": 3}, "3 processes can share evenly; found --data.batch_size 4; use a multiple of 3"),
        ({"batch_size": 0}, "at least 1"),
        ({"batch_size": 21}, "at least one batch of 21 images; found 20 images"),
    ],
)
def test_impossible_batches_are_user_errors(options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sampler_of(**options)
