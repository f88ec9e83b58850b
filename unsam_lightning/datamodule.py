"""The LightningDataModule: loaders, the position from which a killed run goes on, and the single transfer hook.

Next in the tour: `module.py`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from unsam_lightning.batch import Batch, collate
from unsam_lightning.batch_order import BatchSampler, check_batch_size
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.benchmarks.subset import EvalSubset
from unsam_lightning.errors import UserError
from unsam_lightning.manifest import Manifest, check_files, read_manifest
from unsam_lightning.mask_sampling import Sampling
from unsam_lightning.objective import LossWeights
from unsam_lightning.pairs import PairDataset
from unsam_lightning.pseudo_labels.recipe import LabelRecipe
from unsam_lightning.sources import eval_dataset, image_manifest
from unsam_lightning.views import Augmentation, TwoViews


class UnSAMData(LightningDataModule):
    """Unlabelled images with pseudo-labels for training, annotated data sets for tests.

    Args:
        images: What to train on: an image manifest, a source file from `data_manifests/`, or a folder of images.
        labels: Label manifest; by default the one that `label` makes of `images` by `recipe`.
        recipe: How pseudo-labels are made.
        train_images: Train on the first so many images alone; None for all.
        benchmarks: Source files of the data sets with ground truth that `validate` and `test` measure.
        test_images: At most this many images of each benchmark in `test`; None for all.
        val_images: At most this many images of each benchmark in the validations of `fit`; 0 for none.
        masks_per_benchmark_image: At most this many ground-truth masks of each image, drawn with a fixed seed.
        batch_size: Images in a batch of all processes together.
        masks_per_image: At most this many pseudo-masks of each image in a batch.
        sampling: How those are drawn: "paired", "balanced" or "uniform", see `mask_sampling.draw_masks`.
        calibration_images: Held out of the training to calibrate the dial on, a tenth of all at most; 0: neither.
        source_scale: Images are held at this many times the model's frame, so that crops keep their detail.
        augmentation: Ranges of the two views.
        loss_in_frame: Measure the granularity pairs at every pixel of the frame, as SAM-2's training does; False: at
            the decoder's pixels, a sixteenth of them.
        num_workers: Processes that read ahead, for each training process; of benchmarks two at most.
        cache_dir: Where images that are not yet shards are packed.
        seed: Of the order of the images, the choice of masks, the views and the clicks.
    """

    def __init__(
        self,
        images: str = "data_manifests/scenes_train.yaml",
        labels: str | None = None,
        recipe: LabelRecipe = LabelRecipe(),  # noqa: B008 - frozen, and the signature is where defaults live
        train_images: int | None = None,
        benchmarks: list[str] | None = None,
        test_images: int | None = None,
        val_images: int = 8,
        masks_per_benchmark_image: int | None = 8,
        batch_size: int = 4,
        masks_per_image: int = 30,
        sampling: Sampling = "balanced",
        calibration_images: int = 8,
        source_scale: float = 1.25,
        augmentation: Augmentation = Augmentation(),  # noqa: B008
        loss_in_frame: bool = True,
        num_workers: int = 2,
        cache_dir: str = "cache",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.prepare_data_per_node = False  # nodes share the folders, and one process packs for all
        self.images, self.labels, self.recipe, self.train_images = images, labels, recipe, train_images
        self.benchmarks = benchmarks if benchmarks is not None else ["data_manifests/scenes_test.yaml"]
        self.test_images, self.val_images = test_images, val_images
        self.masks_per_benchmark_image = masks_per_benchmark_image
        self.batch_size, self.masks_per_image, self.sampling = batch_size, masks_per_image, sampling
        self.source_scale, self.calibration_images = source_scale, calibration_images
        self.augmentation, self.num_workers, self.loss_in_frame = augmentation, num_workers, loss_in_frame
        self.cache_dir, self.seed = Path(cache_dir), seed
        self.manifest: Manifest | None = None
        self._is_checked = False
        self._check_ranges()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # more ranks than benchmark images

    def _check_ranges(self) -> None:
        """Refuse numbers that no run can have."""
        lowest = dict.fromkeys(("num_workers", "val_images", "calibration_images"), 0.0)
        lowest |= {"batch_size": 1, "masks_per_image": 1, "source_scale": 0.5}
        problems = [f"{name} {getattr(self, name)}" for name, low in lowest.items() if getattr(self, name) < low]
        names = ("train_images", "test_images", "masks_per_benchmark_image")
        optional = {name: getattr(self, name) for name in names}
        problems += [f"{name} {value}" for name, value in optional.items() if value is not None and value < 1]
        problems += [
            f"{path} twice in benchmarks" for path in sorted(set(self.benchmarks)) if self.benchmarks.count(path) > 1
        ]
        if problems:
            raise UserError(
                expected="numbers that a run can have", found="; ".join(problems), remedy="see --data.* in `fit --help`"
            )

    def check_training(self, losses: LossWeights, num_processes: int) -> None:
        """Refuse a loss that these batches give nothing to measure, and batches that the processes cannot share."""
        check_batch_size(self.batch_size, num_processes)
        if losses.order > 0 and self.sampling != "paired":
            raise UserError(
                expected="--data.sampling paired with --model.losses.order, which compares masks of one click",
                found=f"--data.sampling {self.sampling}",
                remedy="set it to paired, or the weight of order to 0",
            )

    def prepare_data(self) -> None:
        """Pack training images that are not shards yet; one process does it for all."""
        if self.trainer is not None and self.trainer.state.fn == "fit":
            self.packed()

    def packed(self) -> Manifest:
        """Return the manifest of the training images; looked for once, as a folder may change while a run goes on."""
        if self.manifest is None:
            self.manifest = image_manifest(self.images, self.cache_dir)
        return self.manifest

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training batches, from where the run stands."""
        assert self.trainer is not None
        images = self.packed()
        if self.labels is None:
            raise UserError(
                expected=f"labels of {images.name}",
                found="none",
                remedy="run `python -m unsam_lightning label` with the same config, or pass --data.labels",
            )
        labels = read_manifest(self.labels, "labels")
        if labels.extra.get("num_masks") == 0:
            raise UserError(
                expected=f"pseudo-masks in {self.labels}", found="none", remedy="look at the images; change the recipe"
            )
        for manifest in (images, labels):
            check_files(manifest)
        module: Any = self.trainer.lightning_module
        frame, losses = module.model.image_size, module.losses
        self.check_training(losses, self.trainer.world_size)
        self.two_views = TwoViews(frame, self.augmentation, self.loss_in_frame, with_second=losses.consistency > 0)
        self.pairs = PairDataset(images, labels, int(frame * self.source_scale), self.masks_per_image, self.sampling)
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        sampler = BatchSampler(
            self._shard_sizes(images),
            batch_size=self.batch_size,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            seed=self.seed,
            # Lightning saves this count in every checkpoint: it is the data position.
            batches_done=lambda: progress.total.processed,
            batches_per_epoch=self._limit(self.num_trained // self.batch_size),
        )
        return DataLoader(
            self.pairs,
            batch_sampler=sampler,
            collate_fn=partial(collate, num_masks=self.masks_per_image),
            num_workers=self.num_workers,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
            persistent_workers=self.num_workers > 0,  # new ones for each epoch would take seconds
        )

    @property
    def held_out(self) -> range:
        """Indices in `pairs` of the images that no training batch has: the last ones."""
        return range(len(self.pairs) - min(self.calibration_images, len(self.pairs) // 10), len(self.pairs))

    @property
    def num_trained(self) -> int:
        """Number of the first images in `pairs` that training batches have."""
        return min(self.held_out.start, self.train_images or self.held_out.start)

    def _shard_sizes(self, images: Manifest) -> list[int]:
        """Return how many samples of each shard train."""
        sizes: list[int] = []
        for shard in images.shards:
            sizes.append(min(shard.samples, self.num_trained - sum(sizes)))
        return sizes

    def _limit(self, whole: int) -> int | None:
        """Return how many of an epoch's batches Lightning takes under `trainer.limit_train_batches`; None for all."""
        assert self.trainer is not None
        limit = self.trainer.limit_train_batches
        if limit is None or (limit == 1.0 and isinstance(limit, float)):
            return None
        return int(limit) if isinstance(limit, int) else max(1, int(whole * limit))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Make the two views of a training batch, on its device; leave benchmark samples as they are."""
        if not isinstance(batch, Batch):
            return batch
        if not self._is_checked:  # once: the ranges are looked at, which makes the host wait for the device
            batch.check()
            self._is_checked = True
        return self.two_views(batch)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Move a training batch; a benchmark sample stays on the CPU, where its masks are measured."""
        if isinstance(batch, BenchmarkItem):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def val_dataloader(self) -> DataLoader[BenchmarkItem]:
        """Return the images for the validations of `fit` and for `validate`."""
        return self._benchmark_loader(self.val_images or self.test_images)  # `fit` does not ask where it is 0

    def test_dataloader(self) -> DataLoader[BenchmarkItem]:
        """Return the images for `test`."""
        return self._benchmark_loader(self.test_images)

    def _benchmark_loader(self, limit: int | None) -> DataLoader[BenchmarkItem]:
        assert self.trainer is not None
        datasets = [eval_dataset(path, limit, self.masks_per_benchmark_image) for path in self.benchmarks]
        items: ConcatDataset[BenchmarkItem] = ConcatDataset([BenchmarkImages(dataset) for dataset in datasets])
        # Strided by rank, without the padding that a DistributedSampler repeats images for.
        mine = Subset(items, list(range(self.trainer.global_rank, len(items), self.trainer.world_size)))
        workers = min(self.num_workers, 2)  # an image of SA-1B with its masks is about a gigabyte: few are read ahead
        return DataLoader(mine, batch_size=None, num_workers=workers, prefetch_factor=1 if workers else None)


class BenchmarkItem:
    """An image of a benchmark and the name of its data set.

    Args:
        dataset: Name of the data set.
        index: Position of the image in it.
        sample: The image with its masks.
    """

    def __init__(self, dataset: str, index: int, sample: EvalSample) -> None:
        self.dataset, self.index, self.sample = dataset, index, sample


class BenchmarkImages(Dataset[BenchmarkItem]):
    """A benchmark data set for a DataLoader."""

    def __init__(self, dataset: EvalSubset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> BenchmarkItem:
        return BenchmarkItem(self.dataset.name, index, self.dataset.or_refusal(index))
