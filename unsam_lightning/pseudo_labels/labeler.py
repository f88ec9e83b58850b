"""Stage 1 as a LightningModule for `Trainer.predict`: image shards in, label shards with the same keys out.

Ranks share out whole shards, a shard is written aside and renamed, and a finished shard is never made again: a killed
run loses at most the shard in work, and the result does not depend on the number of processes.
Next in the tour: `benchmarks/label_candidates.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from unsam_lightning.image_sample import read_image
from unsam_lightning.manifest import Manifest, ShardInfo, read_manifest, sha256_file, write_manifest
from unsam_lightning.model import UnSAM
from unsam_lightning.pairs import MaskEntry, encode_masks
from unsam_lightning.pseudo_labels.features import encoder_features
from unsam_lightning.pseudo_labels.hierarchy import Forest
from unsam_lightning.pseudo_labels.recipe import LabelRecipe, label_image, recipe_hash
from unsam_lightning.shards import ShardReader, ShardWriter
from unsam_lightning.sources import image_manifest


@dataclass(slots=True)
class LabelBatch:
    """Some images of one shard, in its order.

    Args:
        shard: Position of the shard in the manifest.
        keys: Names of the images.
        images: uint8 (H, W, 3) each, sizes differ.
        is_last: These are the last images of the shard.
    """

    shard: int
    keys: list[str]
    images: list[npt.NDArray[np.uint8]]
    is_last: bool


class ShardImages(IterableDataset[LabelBatch]):
    """The images of some shards, batch by batch, in order; workers decode ahead.

    Args:
        images: Image manifest.
        shards: Positions of the shards to go through.
        batch_size: Images in a batch; a batch never spans two shards.
    """

    def __init__(self, images: Manifest, shards: list[int], batch_size: int) -> None:
        self.reader = ShardReader(images)
        starts = np.cumsum([0, *(shard.samples for shard in images.shards)])
        self.batches = [
            (shard, first, min(first + batch_size, int(starts[shard + 1])))
            for shard in shards
            for first in range(int(starts[shard]), int(starts[shard + 1]), batch_size)
        ]
        self.ends = [int(end) for end in starts[1:]]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[LabelBatch]:
        # A DataLoader takes its workers' batches in turn, so every worker doing every n-th batch keeps the order.
        worker = get_worker_info()
        step, start = (worker.num_workers, worker.id) if worker is not None else (1, 0)
        for shard, first, last in self.batches[start::step]:
            records = [self.reader.read(index) for index in range(first, last)]
            name = self.reader.manifest.shards[shard].file
            images = [read_image(record, name) for record in records]
            yield LabelBatch(shard, [record["__key__"] for record in records], images, last == self.ends[shard])


class Labeler(LightningModule):
    """Makes the pseudo-labels of an image manifest.

    Args:
        model: Its frozen encoder gives the features.
        recipe: Everything else that the labels depend on.
        images: Image manifest, source file or folder; packed first where it is not.
        cache_dir: Where such shards are packed.
        num_workers: Processes that decode images ahead.
        num_threads: Threads that cut and merge on the CPU while the encoder works on.
    """

    def __init__(
        self,
        model: UnSAM,
        recipe: LabelRecipe,
        images: str,
        cache_dir: Path,
        num_workers: int = 2,
        num_threads: int = 2,
    ) -> None:
        super().__init__()
        self.model = model
        self.recipe, self.images, self.cache_dir = recipe, images, cache_dir
        self.num_workers, self.num_threads = num_workers, num_threads
        self.allow_zero_length_dataloader_with_multiple_devices = True  # more ranks than shards
        self.pending: list[tuple[str, dict[str, bytes]]] = []

    def prepare_data(self) -> None:
        """Pack the images where they are not packed yet; one process does it for all."""
        image_manifest(self.images, self.cache_dir)

    def setup(self, stage: str) -> None:
        """Find the shards that are still to be labelled and take this rank's share."""
        self.locate()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        missing = [k for k, shard in enumerate(self.manifest.shards) if not (self.path.parent / shard.file).is_file()]
        self.todo = missing[self.trainer.global_rank :: self.trainer.world_size]

    def predict_dataloader(self) -> DataLoader[LabelBatch]:
        """Return the batches of this rank's shards."""
        data = ShardImages(self.manifest, self.todo, self.recipe.images_per_batch)
        return DataLoader(data, batch_size=None, num_workers=min(self.num_workers, len(data)))

    def on_predict_start(self) -> None:
        """Start the threads; numba kernels release the interpreter lock."""
        self.pool = ThreadPoolExecutor(self.num_threads)

    def predict_step(self, batch: LabelBatch, batch_idx: int) -> None:
        """Label some images; with the last images of a shard, write it."""
        frames = torch.cat([self.model.normalize(_to_tensor(image, self.device)) for image in batch.images])
        levels = self.recipe.levels()
        features = encoder_features(self.model, frames, levels)
        maps = [features[level].cpu() for level in levels]
        forests = self.pool.map(
            lambda n: label_image([level[n] for level in maps], batch.images[n], self.recipe), range(len(batch.keys))
        )
        for key, forest in zip(batch.keys, forests, strict=True):
            self.pending.append((key, {"json": encode_forest(forest)}))
        if batch.is_last:
            with ShardWriter(self.path.parent / self.manifest.shards[batch.shard].file) as writer:
                for key, files in self.pending:
                    writer.write(key, files)
            self.pending = []

    def on_predict_end(self) -> None:
        """Stop the threads."""
        self.pool.shutdown()

    def locate(self) -> None:
        """Find out which images there are and where their labels by this recipe belong."""
        self.manifest = image_manifest(self.images, self.cache_dir)
        self.description = self.recipe.describe(self.model, self.manifest)
        folder = f"{self.manifest.name}-labels-{recipe_hash(self.description)}"
        self.path = self.manifest.root / folder / f"{self.manifest.name}.yaml"

    def make_labels(self, trainer: Trainer) -> Manifest:
        """Make what is missing with a Trainer's devices, and return the manifest of all labels.

        Not a hook of `predict`, which a rank without a shard of its own does not run.
        """
        trainer.predict(self, return_predictions=False)
        trainer.strategy.barrier("label shards")
        self.locate()
        if trainer.is_global_zero and not self.path.is_file():
            write_manifest(self._label_manifest())
        trainer.strategy.barrier("label manifest")
        return read_manifest(self.path, "labels")

    def _label_manifest(self) -> Manifest:
        shards = []
        for shard in self.manifest.shards:
            path = self.path.parent / shard.file
            shards.append(ShardInfo(shard.file, shard.samples, path.stat().st_size, sha256_file(path)))
        manifest = Manifest(self.path, "labels", self.manifest.name, shards)
        reader = ShardReader(manifest)
        num_masks = sum(reader.read(index)["json"].count(b'"rle"') for index in range(reader.num_samples))
        manifest.extra = {
            "num_masks": num_masks,
            "recipe": self.description,
            "recipe_hash": recipe_hash(self.description),
        }
        return manifest


def encode_forest(forest: Forest) -> bytes:
    """Return a forest as the JSON of a label shard; see `pairs.py` for the format."""
    height, width = forest.masks.shape[1:]
    masks = [
        MaskEntry(
            rle=rle,
            granularity=round(float(forest.granularity[n]), 6),
            instance=int(forest.instance[n]),
            parent=int(forest.parent[n]),
            stage=str(forest.stage[n]),
            area=int(forest.masks[n].sum()),
        )
        for n, rle in enumerate(encode_masks(forest.masks))
    ]
    return json.dumps({"height": height, "width": width, "masks": masks}, separators=(",", ":")).encode()


def _to_tensor(image: npt.NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].to(device)
