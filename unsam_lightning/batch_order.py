"""Which images a batch gets: an order that can start anywhere. Next in the tour: `mask_planes.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from unsam_lightning.errors import UserError


class BatchSampler:
    """Batches of sample indices in an order that is a pure function of (seed, epoch), and can start anywhere in it.

    WebDataset's pipelines keep no position and can hang ranks on uneven shards; here every rank and worker gets the
    same number of whole batches, and a resumed run goes on with the very batch that comes next. Each epoch leaves out
    the last `num_samples % batch_size` samples of its own shuffled order.

    Args:
        shard_sizes: Samples in each shard.
        batch_size: Of all ranks together.
        rank: This process.
        world_size: Number of processes.
        seed: Of the order.
        batches_done: Called at the start of each pass: how many batches the run has consumed in all.
        batches_per_epoch: Fewer than the data hold, for a limited epoch; None for all. `len` is all of them, for a
            Trainer takes its fraction of that.
        shuffle_shards: Samples are shuffled within windows of this many shuffled shards, so that reads stay local.
    """

    def __init__(
        self,
        shard_sizes: Sequence[int],
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        batches_done: Callable[[], int] = lambda: 0,
        batches_per_epoch: int | None = None,
        shuffle_shards: int = 16,
    ) -> None:
        check_batch_size(batch_size, world_size)
        whole = sum(shard_sizes) // batch_size
        if whole == 0:
            raise UserError(
                expected=f"at least one batch of {batch_size} images",
                found=f"{sum(shard_sizes)} images",
                remedy="use more images or a smaller --data.batch_size",
            )
        self.shard_sizes, self.batch_size, self.seed = list(shard_sizes), batch_size, seed
        self.rank, self.world_size, self.shuffle_shards = rank, world_size, shuffle_shards
        self.batches_done = batches_done
        self._whole, self._length = whole, min(whole, batches_per_epoch or whole)

    def __len__(self) -> int:
        return self._whole

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, start = divmod(self.batches_done(), self._length)
        order = self.order(epoch)
        for batch in range(start, self._length):
            drawn = order[batch * self.batch_size : (batch + 1) * self.batch_size][self.rank :: self.world_size]
            yield [(int(index), self._sample_seed(epoch, int(index))) for index in drawn]

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the order of all samples in an epoch, int64 (num_samples,)."""
        rng = np.random.default_rng((self.seed, epoch))
        ends = np.cumsum([0, *self.shard_sizes])
        shards = rng.permutation(len(self.shard_sizes))
        shards = shards[np.diff(ends)[shards] > 0]  # else those that `train_images` leaves out take the windows' places
        windows = [shards[k : k + self.shuffle_shards] for k in range(0, len(shards), self.shuffle_shards)]
        parts = [np.concatenate([np.arange(ends[s], ends[s + 1]) for s in window]) for window in windows]
        return np.concatenate([rng.permutation(part) for part in parts])

    def _sample_seed(self, epoch: int, index: int) -> int:
        return int(np.random.SeedSequence((self.seed, epoch, index)).generate_state(1, np.uint64)[0] >> 1)


def check_batch_size(batch_size: int, world_size: int, option: str = "--data.batch_size") -> None:
    """Raise `UserError` for batches that so many processes cannot share evenly; `option` is what sets their size."""
    if batch_size < 1 or batch_size % world_size:
        raise UserError(
            expected=f"a global batch size of at least 1 that {world_size} processes can share evenly",
            found=f"{option} {batch_size}",
            remedy=f"use a multiple of {world_size}, or fewer processes: --trainer.devices 1",
        )
