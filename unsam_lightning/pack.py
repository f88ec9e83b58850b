"""Pack a folder of images into tar shards and a manifest: `python -m unsam_lightning shards`.

The same folder gives the same bytes, also when the process was killed on the way and started again. What becomes of an
image is in `photo.py`, how a killed run goes on in `pack_journal.py`. Before: `shards.py` and those two.
Next in the tour: `scenes/`.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import statistics
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from unsam_lightning.errors import UserError, is_folder, printable
from unsam_lightning.image_listing import MAX_PIXELS, list_images
from unsam_lightning.image_sample import image_files
from unsam_lightning.manifest import Manifest, ShardInfo, write_manifest
from unsam_lightning.pack_journal import Done, Plan, begin, finished, record, resume
from unsam_lightning.photo import Photo, only_our_limits, prepare_photo
from unsam_lightning.progress import show_progress
from unsam_lightning.shards import ShardWriter

_reported: set[Path] = set()  # manifests that this process has printed its line about


def pack_images(
    images_dir: Path,
    out_dir: Path,
    *,
    name: str | None = None,
    images_per_shard: int = 256,
    max_side: int = 1500,
    max_pixels: int = MAX_PIXELS,
    licence: str = "unknown",
    source: str | None = None,
) -> Manifest:
    """Pack a folder tree of JPEG, PNG and WebP images into `out_dir` and print one line about it.

    Shards are `{name}-000000.tar` and so on, the manifest `{name}.yaml`, keys `{name}-00000000` and so on, in the order
    of the relative paths. A run that was killed goes on after its last finished shard; one that had finished is not
    repeated: the line is "already packed: ..." then, and missing if this process has printed one for this manifest.
    Files that are no readable image are listed in the manifest under `broken`, with the reason.

    Args:
        images_dir: The folder; links to files and folders are followed, every folder is taken once.
        out_dir: Made if missing; may lie inside `images_dir`.
        name: Letters, digits, "_" and "-"; None: the folder's name with "_" for every other character.
        images_per_shard: Samples in every shard but the last.
        max_side: Longer sides are reduced to this, in pixels. 1500 on the shorter side is what SA-1B has.
        max_pixels: Larger images are refused, undecoded.
        licence: Free text for the manifest.
        source: Free text for the manifest, None for "unknown".

    Raises:
        UserError: The folder has no readable image, an argument is out of range, `out_dir` cannot be written or holds
            something else under this name.
    """
    images_dir, out_dir = Path(images_dir), Path(out_dir)
    options = {"images_per_shard": images_per_shard, "max_side": max_side, "max_pixels": max_pixels}
    name = re.sub(r"[^\w-]", "_", images_dir.resolve().name) if name is None else name
    _check_arguments(images_dir, name, options)
    files, ignored_files = list_images(images_dir, out_dir, name)
    about = {
        "source": printable(source or "unknown"),
        "licence": printable(licence),
        "options": options,
        "listing_sha256": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
    }
    plan = Plan(images_dir, out_dir, name, [file for file, _ in files], about, ignored_files)
    manifest = earlier = finished(plan)
    if manifest is None:
        with begin(plan):
            manifest = earlier = finished(plan)  # by another process, since the look above
            if manifest is None:
                done = resume(plan)
                _write_shards(plan, done)
                manifest = _manifest(plan, done)
                write_manifest(manifest)
    shutil.rmtree(plan.partial, ignore_errors=True)
    _report(manifest, is_new=earlier is None)
    return manifest


def _check_arguments(images_dir: Path, name: str, options: dict[str, int]) -> None:
    if not is_folder(images_dir):
        raise UserError(
            expected="a folder of images",
            found=f"{images_dir}, which is {'a file' if images_dir.exists() else 'missing'}",
            remedy="check the path",
        )
    if low := [f"{option} {value}" for option, value in options.items() if value < 1]:
        raise UserError(
            expected="options of at least 1", found="; ".join(low), remedy="give 1 or more, or leave the default"
        )
    if not re.fullmatch(r"[\w-]+", name) or len(name.encode()) > 64:
        raise UserError(
            expected="a name of at most 64 letters, digits, '_' and '-'",
            found=f"name {name!r}",
            remedy="give another with `shards --name`",
        )


def _write_shards(plan: Plan, done: Done) -> None:
    """Write the shards from `done.next_file` on, and add them to `done`."""
    broken: list[dict[str, str]] = []  # since the last finished shard
    next_file = done.next_file

    def good(advance: Callable[[], None]) -> Generator[tuple[str, Photo], None, None]:
        nonlocal next_file
        for file, photo in _prepare_in_order(plan, done.next_file):
            next_file += 1
            advance()
            if isinstance(photo, Photo):
                yield printable(file), photo
            else:
                broken.append({"file": printable(file), "reason": printable(photo)})

    progress = show_progress(plan.name, "images", len(plan.files), next_file)
    with only_our_limits(), progress as advance, contextlib.closing(good(advance)) as photos:
        for first in photos:
            rest = itertools.islice(photos, plan.about["options"]["images_per_shard"] - 1)
            shard, sizes = _write_shard(plan, done, itertools.chain([first], rest))
            entry = {"shard": asdict(shard), "next_file": next_file, "broken": list(broken), "sizes": sizes}
            record(plan, done, entry)
            broken.clear()
    done.broken += broken


def _write_shard(
    plan: Plan, done: Done, photos: Iterable[tuple[str, Photo]]
) -> tuple[ShardInfo, list[tuple[int, int]]]:
    first_index = sum(shard.samples for shard in done.shards)
    sizes = []
    with ShardWriter(plan.out_dir / f"{plan.name}-{len(done.shards):06d}.tar") as writer:
        for index, (file, photo) in enumerate(photos, first_index):
            about = {"file": file, "width": photo.size[0], "height": photo.size[1]}
            about |= {"original_width": photo.original[0], "original_height": photo.original[1]}
            writer.write(f"{plan.name}-{index:08d}", image_files(photo.jpeg, about))
            sizes.append(photo.size)
    assert writer.info is not None
    return writer.info, sizes


def _prepare_in_order(plan: Plan, start: int) -> Iterator[tuple[str, Photo | str]]:
    """Yield the files from `start` on with what became of them; threads, because Pillow decodes outside the GIL."""
    limits = {key: plan.about["options"][key] for key in ("max_side", "max_pixels")}
    num_threads = num_cores()
    pending: deque[tuple[str, Future[Photo | str]]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for file in plan.files[start:]:
                pending.append((file, pool.submit(prepare_photo, plan.images_dir / file, **limits)))
                if len(pending) > 4 * num_threads:  # enough to hide one slow image, few enough to hold in memory
                    ready, photo = pending.popleft()
                    yield ready, photo.result()
            while pending:
                ready, photo = pending.popleft()
                yield ready, photo.result()
        finally:
            pool.shutdown(cancel_futures=True)


def num_cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _manifest(plan: Plan, done: Done) -> Manifest:
    if not done.shards:
        first = "; ".join(f"{entry['file']}: {entry['reason']}" for entry in done.broken[:3])
        shutil.rmtree(plan.partial)
        raise UserError(
            expected=f"at least one readable image in {plan.images_dir}",
            found=f"{len(done.broken)} broken files ({first})",
            remedy="give images that an image viewer can open",
        )
    image_size = {
        side: {"min": min(counter), "median": statistics.median_low(counter.elements()), "max": max(counter)}
        for side, counter in zip(("width", "height"), done.sizes, strict=True)
    }
    found = {"image_size": image_size, "ignored_files": plan.ignored_files, "broken": done.broken}
    return Manifest(plan.manifest_path, "images", plan.name, done.shards, {**plan.about, **found})


def _report(manifest: Manifest, is_new: bool) -> None:
    """Print the summary; of shards that were there already once per process, because a training run asks often."""
    path = manifest.path.resolve()
    if is_new or path not in _reported:
        print(("" if is_new else "already packed: ") + _summary(manifest))
    _reported.add(path)


def _summary(manifest: Manifest) -> str:
    size_gb = sum(shard.bytes for shard in manifest.shards) / 1e9
    broken, ignored_files = manifest.extra["broken"], manifest.extra["ignored_files"]
    first = f" (listed in the manifest; first {broken[0]['file']}: {broken[0]['reason']})" if broken else ""
    return (
        f"{manifest.path}: {manifest.num_samples} images in {len(manifest.shards)} shards, {size_gb:.3f} GB; "
        f"{len(broken)} broken{first}; {ignored_files} files of other types ignored"
    )
