"""What a packing run has done so far, on disk: one that was killed goes on, one that had finished is not repeated.

A run stays in `.{name}.partial` until it ends: a lock, `run.json` (what is packed) and an entry per finished shard.
Next in the tour: `pack.py`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unsam_lightning.aside import lock, write_text_aside
from unsam_lightning.errors import UserError
from unsam_lightning.manifest import Manifest, ShardInfo, check_files, file_problem, read_manifest


@dataclass(frozen=True)
class Plan:
    """What to pack and where to; `about` is what the manifest says of it, beside what packing finds out."""

    images_dir: Path
    out_dir: Path
    name: str
    files: list[str]  # relative, with "/", sorted
    about: dict[str, Any]
    ignored_files: int

    @property
    def manifest_path(self) -> Path:
        """The yaml that says, by being there, that the run has finished."""
        return self.out_dir / f"{self.name}.yaml"

    @property
    def partial(self) -> Path:
        """The folder that exists while the run is unfinished: `run.json` and a journal entry per finished shard."""
        return self.out_dir / f".{self.name}.partial"


@dataclass
class Done:
    """The sum of all journal entries."""

    shards: list[ShardInfo] = field(default_factory=list)
    broken: list[dict[str, str]] = field(default_factory=list)
    sizes: tuple[Counter[int], Counter[int]] = field(default_factory=lambda: (Counter(), Counter()))
    next_file: int = 0

    def add(self, entry: dict[str, Any]) -> None:
        """Add a finished shard."""
        self.shards.append(ShardInfo(**entry["shard"]))
        self.broken += entry["broken"]
        for counter, sides in zip(self.sizes, zip(*entry["sizes"], strict=True), strict=True):
            counter.update(sides)
        self.next_file = entry["next_file"]


def finished(plan: Plan) -> Manifest | None:
    """Return the manifest of an earlier run of the same plan; None if there is none.

    Raises:
        UserError: It is of other images or options, or its shards are gone.
    """
    if not plan.manifest_path.exists():
        return None
    manifest = read_manifest(plan.manifest_path, "images")
    differences = [
        f"{key} {manifest.extra.get(key)!r} instead of {value!r}"
        for key, value in plan.about.items()
        if manifest.extra.get(key) != value
    ]
    if differences:
        raise UserError(
            expected=f"no {plan.manifest_path}, or one of the same images and options",
            found="; ".join(differences) + " (listing_sha256 stands for the images' names and sizes)",
            remedy=f"choose another --name or OUT_DIR, or delete it and {plan.name}-*.tar to pack anew; "
            f"or pass what is packed: --data.images {plan.manifest_path}",
        )
    check_files(manifest)
    return manifest


def begin(plan: Plan) -> AbstractContextManager[None]:
    """Return the lock to work under, in the folder of the unfinished run; waits for another process that packs there.

    Whoever has it looks with `finished` what that one has left.

    Raises:
        UserError: The folder cannot be made.
    """
    return lock(plan.partial / "lock", purpose=f"packs {plan.name} into {plan.out_dir}")


def resume(plan: Plan) -> Done:
    """Return what an interrupted run of the same plan has finished, and mark this one as begun.

    Raises:
        UserError: The unfinished run is of other images or options, or shards of an unknown run are in the way.
    """
    run = {key: plan.about[key] for key in ("options", "listing_sha256")}
    marker = plan.partial / "run.json"
    if not marker.exists():
        _refuse_stale_shards(plan)
    elif json.loads(marker.read_text()) != run:
        raise UserError(
            expected=f"an unfinished run of the same images and options in {plan.partial}",
            found="one of others",
            remedy=f"choose another --name or OUT_DIR, or delete {plan.partial} and {plan.name}-*.tar beside it",
        )
    write_text_aside(marker, json.dumps(run))
    done = Done()
    while (journal := plan.partial / f"{len(done.shards):06d}.json").exists():
        entry = json.loads(journal.read_text())
        if file_problem(plan.out_dir, ShardInfo(**entry["shard"])):  # lost since: written again, to the same bytes
            break
        done.add(entry)
    return done


def _refuse_stale_shards(plan: Plan) -> None:
    tar = re.compile(rf"{plan.name}-\d{{6,}}\.tar")
    stale = [path for path in plan.out_dir.glob("*.tar") if tar.fullmatch(path.name)]
    if stale:
        shutil.rmtree(plan.partial)  # nothing has begun
        raise UserError(
            expected=f"no shards named {plan.name} in {plan.out_dir}",
            found=f"{len(stale)} without a manifest",
            remedy=f"choose another --name or OUT_DIR, or delete {plan.name}-*.tar there",
        )


def record(plan: Plan, done: Done, entry: dict[str, Any]) -> None:
    """Note a finished shard on disk, and add it to `done`.

    Args:
        plan: What is packed.
        done: The sum of the entries before.
        entry: `shard` (the manifest's entry), `next_file` (position in `plan.files` to go on from), `broken` and
            `sizes` (files refused, and (width, height) of images packed, since the entry before).
    """
    write_text_aside(plan.partial / f"{len(done.shards):06d}.json", json.dumps(entry))
    done.add(entry)
