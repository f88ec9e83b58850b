"""Pack a folder of images into tar shards and a manifest: `python -m unsam_lightning shards`.

The same folder gives the same bytes, also when the process was killed on the way and started again. Every image is an
upright RGB JPEG afterwards: 16-bit values are scaled to 8 bits, transparency is laid on white (what a browser shows),
colour profiles are not applied. Before: `shards.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import statistics
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from unsam_lightning.errors import UserError
from unsam_lightning.manifest import (
    Manifest,
    ShardInfo,
    check_files,
    explain_write_errors,
    file_problem,
    read_manifest,
    write_manifest,
    write_text_aside,
)
from unsam_lightning.shards import ShardWriter

#: Lower-case endings of the files that are taken; what is inside decides how they are read.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp")

LOG_SECONDS = 10.0  # between two progress lines where there is no terminal

_UPRIGHT = {  # EXIF orientation -> what makes the image upright; 1 and unknown values mean "as it is"
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Photo:
    """One image as it goes into a shard; `original` is its upright size in pixels before it was reduced."""

    jpeg: bytes
    size: tuple[int, int]
    original: tuple[int, int]


def prepare_photo(path: Path, *, max_side: int, max_pixels: int) -> Photo | str:
    """Return an image file as it goes into a shard, or the reason why it cannot.

    A JPEG that is RGB, upright and small enough keeps its bytes; all else becomes JPEG quality 95 without chroma
    subsampling. Of an animation the first frame is taken.

    Args:
        path: The file; its ending does not matter.
        max_side: A longer side above this is reduced to it (Lanczos), in pixels.
        max_pixels: An image with more pixels is refused before it is decoded.
    """
    if not path.is_file():
        return "not a regular file"
    try:
        data = path.read_bytes()
        if not data:
            return "empty file (0 bytes)"
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            if image.width * image.height > max_pixels:
                return f"{image.width} x {image.height} pixels, more than max_pixels {max_pixels}"
            image.load()
            turn = _UPRIGHT.get(image.getexif().get(_EXIF_ORIENTATION, 1))
            # MPO: what Pillow calls a JPEG with a preview or a depth map behind the picture.
            keep = image.format in ("JPEG", "MPO") and image.mode == "RGB" and turn is None
            if keep and max(image.size) <= max_side:
                return Photo(data, image.size, image.size)
            rgb = _to_rgb(image)
        rgb = rgb if turn is None else rgb.transpose(turn)
        original = rgb.size
        if max(original) > max_side:
            width, height = (max(1, round(side * max_side / max(original))) for side in original)
            rgb = rgb.resize((width, height), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        rgb.save(buffer, "JPEG", quality=95, subsampling=0)
        return Photo(buffer.getvalue(), rgb.size, original)
    except MemoryError:  # the machine's state, not the file's
        raise
    except UnidentifiedImageError:  # its text holds a memory address
        return "not a JPEG, PNG or WebP image"
    except Exception as error:  # damaged files make the decoders raise SyntaxError, ValueError, struct.error and more
        return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip
        wide = np.asarray(image).astype(np.int64)
        grey = (wide >> 8).astype(np.uint8)  # the high byte, as Pillow does for 16-bit colour
        grey[wide == image.info.get("transparency", -1)] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


@dataclass(frozen=True)
class _Plan:
    """What to pack and where to; `about` is what the manifest says of it, beside what packing finds out."""

    images_dir: Path
    out_dir: Path
    name: str
    files: list[str]  # relative, with "/", sorted
    about: dict[str, Any]
    ignored_files: int

    @property
    def manifest_path(self) -> Path:
        return self.out_dir / f"{self.name}.yaml"

    @property
    def partial(self) -> Path:
        """The folder that exists while the run is unfinished: `run.json` and a journal entry per finished shard."""
        return self.out_dir / f".{self.name}.partial"


@dataclass
class _Done:
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


def pack_images(
    images_dir: Path,
    out_dir: Path,
    *,
    name: str | None = None,
    images_per_shard: int = 256,
    max_side: int = 1500,
    max_pixels: int = 178_000_000,
    licence: str = "unknown",
    source: str | None = None,
) -> Manifest:
    """Pack a folder tree of JPEG, PNG and WebP images into `out_dir` and print one line about it.

    Shards are `{name}-000000.tar` and so on, the manifest `{name}.yaml`, keys `{name}-00000000` and so on, in the order
    of the relative paths. A run that was killed goes on after its last finished shard; one that had finished is not
    repeated. Files that are no readable image are listed in the manifest under `broken`, with the reason.

    Args:
        images_dir: The folder; links to files and folders are followed, every folder is taken once.
        out_dir: Made if missing; may lie inside `images_dir`.
        name: Letters, digits, "_" and "-"; None: the folder's name with "_" for every other character.
        images_per_shard: Samples in every shard but the last.
        max_side: Longer sides are reduced to this, in pixels. 1500 on the shorter side is what SA-1B has.
        max_pixels: Larger images are refused, undecoded; Pillow's own limit is 178 million.
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
    files, ignored_files = _list_images(images_dir, out_dir, name)
    about = {
        "source": _printable(source or "unknown"),
        "licence": _printable(licence),
        "options": options,
        "listing_sha256": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
    }
    plan = _Plan(images_dir, out_dir, name, [file for file, _ in files], about, ignored_files)
    manifest = _finished(plan)
    if manifest is None:
        with _begin(plan):
            done = _resume(plan)
            _write_shards(plan, done)
            manifest = _manifest(plan, done)
            write_manifest(manifest)
    shutil.rmtree(plan.partial, ignore_errors=True)
    print(_summary(manifest))
    return manifest


def _check_arguments(images_dir: Path, name: str, options: dict[str, int]) -> None:
    problems = [f"{option} {value}" for option, value in options.items() if value < 1]
    if not re.fullmatch(r"[\w-]+", name) or len(name.encode()) > 64:
        problems.append(f"name {name!r}")
    if not images_dir.is_dir():
        problems.append(f"{images_dir}, which is {'a file' if images_dir.exists() else 'missing'}")
    if problems:
        raise UserError(
            expected="a folder of images, options of at least 1, and a name of at most 64 letters, digits, '_' and '-'",
            found="; ".join(problems),
            remedy="correct these; --name sets the name",
        )


def _list_images(images_dir: Path, out_dir: Path, name: str) -> tuple[list[tuple[str, int]], int]:
    """Return relative path and size of each image file, sorted, and the number of other files."""

    def refuse(error: OSError) -> None:
        raise UserError(
            expected="to read every folder below IMAGES_DIR",
            found=f"{error.filename}: {error.strerror}",
            remedy="make it readable or move it away",
        )

    # What earlier runs left in out_dir is not counted as ignored, or a second run would count differently.
    ours = re.compile(rf"\.?{re.escape(name)}(-\d{{6,}}\.tar|\.yaml|\.partial)(\.tmp)?")
    own_folder = os.path.realpath(out_dir)
    images, ignored_files, seen = [], 0, set()
    for folder, subfolders, names in os.walk(images_dir, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a second way to it, or a circle of links
            subfolders.clear()
            continue
        seen.add(real)
        if real == own_folder:
            subfolders[:] = [entry for entry in subfolders if not ours.fullmatch(entry)]
            names = [entry for entry in names if not ours.fullmatch(entry)]
        subfolders.sort()
        for path in (Path(folder, entry) for entry in names):
            if path.name.lower().endswith(SUFFIXES):
                size = path.stat().st_size if path.is_file() else -1
                images.append((path.relative_to(images_dir).as_posix(), size))
            else:
                ignored_files += 1
    if not images:
        raise UserError(
            expected=f"images ({', '.join(SUFFIXES)}) in {images_dir} or its subfolders",
            found=f"{ignored_files} files of other types" if ignored_files else "no files",
            remedy="give the folder that holds the images",
        )
    return sorted(images), ignored_files


def _finished(plan: _Plan) -> Manifest | None:
    """Return the manifest of an earlier run of the same plan; None if there is none."""
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
            remedy=f"choose another --name or OUT_DIR, or delete it and {plan.name}-*.tar to pack anew",
        )
    check_files(manifest)
    return manifest


def _begin(plan: _Plan) -> TextIO:
    """Make the folder of the unfinished run; returns its lock, which the end of the process frees in any case."""
    if not plan.partial.exists():
        tar = re.compile(rf"{plan.name}-\d{{6,}}\.tar")
        stale = [path for path in plan.out_dir.glob("*.tar") if tar.fullmatch(path.name)]
        if stale:
            raise UserError(
                expected=f"no shards named {plan.name} in {plan.out_dir}",
                found=f"{len(stale)} without a manifest",
                remedy=f"choose another --name or OUT_DIR, or delete {plan.name}-*.tar there",
            )
    with explain_write_errors(plan.partial):
        plan.partial.mkdir(parents=True, exist_ok=True)
        lock = (plan.partial / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise UserError(
            expected=f"to be the only one who packs {plan.name} into {plan.out_dir}",
            found="another process that is at it",
            remedy="wait for it, or choose another --name or OUT_DIR",
        ) from error
    except OSError:
        pass  # a cluster file system without locks: there we cannot tell
    return lock


def _resume(plan: _Plan) -> _Done:
    """Return what an interrupted run of the same plan has finished, and mark this one as begun."""
    run = {key: plan.about[key] for key in ("options", "listing_sha256")}
    marker = plan.partial / "run.json"
    if marker.exists() and json.loads(marker.read_text()) != run:
        raise UserError(
            expected=f"an unfinished run of the same images and options in {plan.partial}",
            found="one of others",
            remedy=f"choose another --name or OUT_DIR, or delete {plan.partial} and {plan.name}-*.tar beside it",
        )
    write_text_aside(marker, json.dumps(run))
    done = _Done()
    while (journal := plan.partial / f"{len(done.shards):06d}.json").exists():
        entry = json.loads(journal.read_text())
        if file_problem(plan.out_dir, ShardInfo(**entry["shard"])):  # lost since: written again, to the same bytes
            break
        done.add(entry)
    return done


def _write_shards(plan: _Plan, done: _Done) -> None:
    """Write the shards from `done.next_file` on, and add them to `done`."""
    broken: list[dict[str, str]] = []  # since the last finished shard
    next_file = done.next_file

    def good(advance: Callable[[], None]) -> Generator[tuple[str, Photo], None, None]:
        nonlocal next_file
        for file, photo in _prepare_in_order(plan, done.next_file):
            next_file += 1
            advance()
            if isinstance(photo, Photo):
                yield _printable(file), photo
            else:
                broken.append({"file": _printable(file), "reason": _printable(photo)})

    with _only_our_limits(), _progress_bar(plan, next_file) as advance, contextlib.closing(good(advance)) as photos:
        for first in photos:
            rest = itertools.islice(photos, plan.about["options"]["images_per_shard"] - 1)
            shard, sizes = _write_shard(plan, done, itertools.chain([first], rest))
            entry = {"shard": asdict(shard), "next_file": next_file, "broken": list(broken), "sizes": sizes}
            write_text_aside(plan.partial / f"{len(done.shards):06d}.json", json.dumps(entry))
            done.add(entry)
            broken.clear()
    done.broken += broken


def _write_shard(
    plan: _Plan, done: _Done, photos: Iterable[tuple[str, Photo]]
) -> tuple[ShardInfo, list[tuple[int, int]]]:
    first_index = sum(shard.samples for shard in done.shards)
    sizes = []
    with ShardWriter(plan.out_dir / f"{plan.name}-{len(done.shards):06d}.tar") as writer:
        for index, (file, photo) in enumerate(photos, first_index):
            about = {"file": file, "width": photo.size[0], "height": photo.size[1]}
            about |= {"original_width": photo.original[0], "original_height": photo.original[1]}
            writer.write(f"{plan.name}-{index:08d}", {"jpg": photo.jpeg, "json": json.dumps(about).encode()})
            sizes.append(photo.size)
    assert writer.info is not None
    return writer.info, sizes


def _prepare_in_order(plan: _Plan, start: int) -> Iterator[tuple[str, Photo | str]]:
    """Yield the files from `start` on with what became of them; threads, because Pillow decodes outside the GIL."""
    limits = {key: plan.about["options"][key] for key in ("max_side", "max_pixels")}
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pending: deque[tuple[str, Future[Photo | str]]] = deque()
    with ThreadPoolExecutor(num_cores) as pool:
        try:
            for file in plan.files[start:]:
                pending.append((file, pool.submit(prepare_photo, plan.images_dir / file, **limits)))
                if len(pending) > 4 * num_cores:  # enough to hide one slow image, few enough to hold in memory
                    ready, photo = pending.popleft()
                    yield ready, photo.result()
            while pending:
                ready, photo = pending.popleft()
                yield ready, photo.result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _only_our_limits() -> Iterator[None]:
    """Let `max_pixels` decide alone, and the manifest's reasons speak alone: no limit and no warnings of Pillow."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


@contextlib.contextmanager
def _progress_bar(plan: _Plan, done: int) -> Iterator[Callable[[], None]]:
    """Show how far packing is; gives what to call per file. A bar on a terminal, now and then a line elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
    start = last_line = time.monotonic()
    resumed, total = done, len(plan.files)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(plan.name, total=total, completed=done, pace="")

        def advance() -> None:
            nonlocal done, last_line
            done, now = done + 1, time.monotonic()
            rate = (done - resumed) / max(now - start, 1e-6)
            pace = f"{rate:.1f} images/s, {timedelta(seconds=round((total - done) / rate))} left"
            bar.update(task, completed=done, pace=pace)
            if not console.is_terminal and now - last_line >= LOG_SECONDS:
                last_line = now
                print(f"{plan.name}: {done}/{total} images, {pace}", file=sys.stderr, flush=True)

        yield advance


def _manifest(plan: _Plan, done: _Done) -> Manifest:
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


def _summary(manifest: Manifest) -> str:
    size_gb = sum(shard.bytes for shard in manifest.shards) / 1e9
    broken, ignored_files = manifest.extra["broken"], manifest.extra["ignored_files"]
    first = f" (listed in the manifest; first {broken[0]['file']}: {broken[0]['reason']})" if broken else ""
    return (
        f"{manifest.path}: {manifest.num_samples} images in {len(manifest.shards)} shards, {size_gb:.3f} GB; "
        f"{len(broken)} broken{first}; {ignored_files} files of other types ignored"
    )


def _printable(text: str) -> str:
    """Return the text with bytes of a file name that are no UTF-8 escaped, so that yaml, JSON and terminals take it."""
    return text.encode("utf-8", "backslashreplace").decode()
