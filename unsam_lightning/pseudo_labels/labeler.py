"""Stage 1 as a LightningModule for `Trainer.predict`: image shards in, label shards with the same keys out.

Ranks share out whole shards, a shard is written aside and renamed, and a finished shard is never made again: a killed
run loses at most the shard in work, and the result does not depend on the number of processes.
Next in the tour: `benchmarks/label_candidates.py`.
"""

from __future__ import annotations

import json
import signal
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader

from unsam_lightning.aside import lock
from unsam_lightning.errors import UserError
from unsam_lightning.manifest import Manifest, ShardInfo, read_manifest, scan_shard, sha256_file, write_manifest
from unsam_lightning.model import UnSAM
from unsam_lightning.pack import num_cores
from unsam_lightning.pairs import MaskEntry
from unsam_lightning.pseudo_labels.label_batches import LabelBatch, ShardImages
from unsam_lightning.pseudo_labels.recipe import LabelRecipe, label_image, recipe_hash
from unsam_lightning.pseudo_labels.upsample import LiftedForest
from unsam_lightning.shards import ShardReader, ShardWriter
from unsam_lightning.sources import image_manifest


class Labeler(LightningModule):
    """Makes the pseudo-labels of an image manifest.

    Args:
        model: Its frozen encoder gives the features, unless the recipe names others.
        recipe: Everything else that the labels depend on.
        images: Image manifest, source file or folder; packed first where it is not.
        cache_dir: Where such shards are packed.
        num_workers: Processes that decode images ahead.
        num_threads: Threads that find masks on the CPU while the encoder works on the next images; by default one for
            each core that this process may use.
    """

    manifest: Manifest  # of the images; these three since `locate`
    description: dict[str, Any]
    path: Path

    def __init__(
        self,
        model: UnSAM,
        recipe: LabelRecipe,
        images: str,
        cache_dir: Path,
        num_workers: int = 2,
        num_threads: int | None = None,
    ) -> None:
        super().__init__()
        self.prepare_data_per_node = False  # nodes share the folders, and one process packs for all
        self.maps = recipe.maps(model)
        self.recipe, self.images, self.cache_dir = recipe, images, cache_dir
        self.num_workers, self.num_threads = num_workers, num_threads or num_cores()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # more ranks than shards
        self.given = recipe.given()
        self.at_work: deque[tuple[LabelBatch, list[Future[tuple[bytes, float]]]]] = deque()
        self.finished: list[tuple[str, dict[str, bytes]]] = []  # of the shard at work
        self.locks = ExitStack()
        self.seconds = dict.fromkeys(("encode", "masks", "write"), 0.0)
        self.num_labelled = 0

    def prepare_data(self) -> None:
        """Pack the images where they are not packed yet, and wait for whoever writes these labels already.

        The first process of all does it for all; the others wait for it without a limit in time.
        """
        self.locate()
        if self._missing() or not self.path.is_file():
            self.locks.enter_context(lock(self.path.parent / ".lock", f"writes labels to {self.path.parent}"))

    def setup(self, stage: str) -> None:
        """Find the shards that are still to be labelled and take this rank's share."""
        # One look for all: a rank that looks later may find another image, or a shard that is finished by then.
        found: Any = None
        if self.trainer.is_global_zero:
            found = self.manifest, self.description, self.path, self._missing()
        self.manifest, self.description, self.path, missing = self.trainer.strategy.broadcast(found)
        for source in self.given.values():
            source.check(self.manifest)
        if missing and self.trainer.is_global_zero:
            self.path.unlink(missing_ok=True)  # lists a shard that is lost; made anew, it may have other bytes
        self.todo = missing[self.trainer.global_rank :: self.trainer.world_size]

    def _missing(self) -> list[int]:
        """Return the positions of the shards that have no labels yet."""
        return [k for k, shard in enumerate(self.manifest.shards) if not (self.path.parent / shard.file).is_file()]

    def predict_dataloader(self) -> DataLoader[LabelBatch]:
        """Return the batches of this rank's shards."""
        data = ShardImages(self.manifest, self.todo, self.recipe.images_per_batch)
        return DataLoader(data, batch_size=None, num_workers=min(self.num_workers, len(data)))

    def predict_step(self, batch: LabelBatch, batch_idx: int) -> None:
        """Encode some images and hand them to the threads; collect what those made of the images before."""
        if self.trainer.received_sigterm:  # Lightning keeps the signal to itself, and looks for it in other loops alone
            raise SIGTERMException(128 + signal.SIGTERM)
        start = time.perf_counter()
        maps = [features.cpu() for features in self.maps(batch.images)]
        self.seconds["encode"] += time.perf_counter() - start
        self.num_labelled += len(batch.keys)
        made = [
            self.pool.submit(self._label, [each[n] for each in maps], image, name)
            for n, (image, name) in enumerate(zip(batch.images, batch.names, strict=True))
        ]
        self.at_work.append((batch, made))
        # Two batches hide the encoder; two images a thread keep every one at work while the oldest is waited for.
        at_most = 2 * max(self.recipe.images_per_batch, self.num_threads)
        while sum(len(batch.keys) for batch, _ in self.at_work) > at_most:
            self._collect()

    def on_predict_end(self) -> None:
        """Collect the last images."""
        while self.at_work:
            self._collect()

    def _label(self, maps: list[torch.Tensor], image: npt.NDArray[np.uint8], name: str) -> tuple[bytes, float]:
        """Return the label of one image, and how long that took; runs in a thread."""
        start = time.perf_counter()
        label = encode_forest(label_image(maps, image, self.recipe, self.given, name))
        return label, time.perf_counter() - start

    def _collect(self) -> None:
        """Wait for the oldest images at work; write their shard if they are its last."""
        batch, made = self.at_work.popleft()
        for key, (label, seconds) in zip(batch.keys, (future.result() for future in made), strict=True):
            self.seconds["masks"] += seconds
            self.finished.append((key, {"json": label}))
        if batch.is_last:
            start = time.perf_counter()
            with ShardWriter(self.path.parent / self.manifest.shards[batch.shard].file) as writer:
                for key, files in self.finished:
                    writer.write(key, files)
            self.finished = []
            self.seconds["write"] += time.perf_counter() - start

    def seconds_per_image(self) -> dict[str, float]:
        """Return how long this process worked on an image, by stage; nothing if it labelled none.

        `encode` is wall clock, `masks` the sum over threads, `write` wall clock of shards.
        """
        return {stage: spent / self.num_labelled for stage, spent in self.seconds.items() if self.num_labelled}

    def locate(self) -> None:
        """Find out which images there are and where their labels by this recipe belong."""
        self.manifest = image_manifest(self.images, self.cache_dir)
        self.description = self.recipe.describe(self.maps, self.manifest, self.given)
        folder = f"{self.manifest.name}-labels-{recipe_hash(self.description)}"
        self.path = self.manifest.root / folder / f"{self.manifest.name}.yaml"

    def make_labels(self, trainer: Trainer) -> Manifest:
        """Make what is missing with a Trainer's devices, and return the manifest of all labels.

        Not a hook of `predict`, which a rank without a shard of its own does not run.
        """
        self.pool = ThreadPoolExecutor(self.num_threads)  # numba kernels release the interpreter lock
        with self.locks:
            try:
                trainer.predict(self, return_predictions=False)
            finally:
                self.pool.shutdown(cancel_futures=True)
            trainer.strategy.barrier("label shards")
            if trainer.is_global_zero and not self.path.is_file():
                write_manifest(self._label_manifest())
            trainer.strategy.barrier("label manifest")
        return read_manifest(self.path, "labels")

    def _label_manifest(self) -> Manifest:
        """Return the manifest of the label shards, all of which are there.

        Raises:
            UserError: Some are not whole; they are removed.
        """
        shards, bad = [], []
        for shard in self.manifest.shards:
            path = self.path.parent / shard.file
            index, problems = scan_shard(path)
            if problems or len(index) != shard.samples:
                bad.append(f"{shard.file} has {'; '.join([f'{len(index)} samples', *problems])}")
                path.unlink()
            else:
                shards.append(ShardInfo(shard.file, shard.samples, path.stat().st_size, sha256_file(path)))
        if bad:
            raise UserError(
                expected=f"whole shards of labels in {self.path.parent}",
                found="; ".join(bad),
                remedy="run `label` again: these are removed, and made anew",
            )
        manifest = Manifest(self.path, "labels", self.manifest.name, shards)
        reader = ShardReader(manifest)
        num_masks = sum(reader.read(index)["json"].count(b'"rle"') for index in range(reader.num_samples))
        manifest.extra = {
            "num_masks": num_masks,
            "recipe": self.description,
            "recipe_hash": recipe_hash(self.description),
        }
        return manifest


def encode_forest(forest: LiftedForest) -> bytes:
    """Return a forest as the JSON of a label shard; see `pairs.py` for the format."""
    masks = [
        MaskEntry(
            rle=rle,
            granularity=round(float(forest.granularity[n]), 6),
            instance=int(forest.instance[n]),
            parent=int(forest.parent[n]),
            stage=str(forest.stage[n]),
            area=int(forest.area[n]),
        )
        for n, rle in enumerate(forest.rle)
    ]
    return json.dumps({"height": forest.height, "width": forest.width, "masks": masks}, separators=(",", ":")).encode()
