"""Whatever the user has becomes an image manifest or a benchmark data set: shards, a folder, a source file.

A source file is a small yaml in `data_manifests/` that says what a data set is, where it lies and how it is read:

    format: unsam_lightning/source/1
    name: bsds500_val
    reader: bsds500                        # images | scenes | bsds500 | mask_folder
    root: ../../shared/data/BSDS500        # relative to the yaml
    options: {split: val}

Next in the tour: `pairs.py`.
"""

from __future__ import annotations

import inspect
import io
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from PIL import Image

from unsam_lightning.benchmarks.sample import EvalDataset
from unsam_lightning.benchmarks.subset import EvalSubset
from unsam_lightning.errors import UserError
from unsam_lightning.image_sample import image_files
from unsam_lightning.manifest import FORMATS, Manifest, ShardInfo, read_manifest, write_manifest
from unsam_lightning.pack import pack_images
from unsam_lightning.shards import ShardWriter

SOURCE_FORMAT = "unsam_lightning/source/1"

_READERS = ("images", "scenes", "bsds500", "mask_folder")

_Made = TypeVar("_Made")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source file.

    Args:
        name: Of the data set; names its shards and its rows in tables.
        reader: How it is read; see the module's docstring.
        root: Folder with the data, absolute; None for generated data.
        options: Passed to the reader.
        licence: As stated by whoever made the data.
        source: Where the data come from, in words.
    """

    name: str
    reader: str
    root: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)
    licence: str = "unknown"
    source: str = "unknown"


def read_source(path: Path) -> Source:
    """Return a source file's content.

    Raises:
        UserError: Missing file, not yaml, another format, unknown reader, missing or malformed fields.
    """
    content = _read_yaml(path)
    found = content.get("format") if isinstance(content, dict) else None
    if found != SOURCE_FORMAT:
        raise UserError(
            expected=f"format {SOURCE_FORMAT} in {path}",
            found=f"format {found}",
            remedy="see data_manifests/ for examples",
        )
    unknown = set(content) - {"format", "name", "reader", "root", "options", "licence", "source"}
    problems = [f"unknown key {key}" for key in sorted(unknown)]
    problems += [f"no key {key}" for key in ("name", "reader") if key not in content]
    if content.get("reader") not in _READERS:
        problems.append(f"reader {content.get('reader')!r}, not one of {', '.join(_READERS)}")
    if not re.fullmatch(r"[\w-]+", str(content.get("name", "none"))):  # it names files and folders
        problems.append(f"name {content['name']!r}, not of letters, digits, _ and - only")
    if not isinstance(content.get("options", {}), dict):
        problems.append(f"options {content['options']!r}, not a mapping")
    if problems:
        raise UserError(expected=f"a complete source file at {path}", found="; ".join(problems), remedy="correct it")
    root = (path.parent / str(content["root"])).resolve() if "root" in content else None
    rest = {key: content[key] for key in ("options", "licence", "source") if key in content}
    return Source(name=str(content["name"]), reader=content["reader"], root=root, **rest)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise UserError(expected=f"a yaml file at {path}", found=str(reason), remedy="check the path") from None


def _with_options(make: Callable[..., _Made], source: Source, path: Path, /, *args: Any, **named: Any) -> _Made:
    """Return what `make` makes with a source's options; an option that it does not take is a `UserError`."""
    signature = inspect.signature(make)
    try:
        signature.bind(*args, **named, **source.options)
    except TypeError as error:
        raise UserError(
            expected=f"options that reader {source.reader} takes in {path}",
            found=str(error),
            remedy=f"it takes {', '.join(signature.parameters)}",
        ) from None
    return make(*args, **named, **source.options)


def find_file(name: str) -> Path:
    """Return where a file or folder is: as named, or as named from the project's root or the installed package.

    So the source files of `data_manifests/` are found from any working directory. A name that is nowhere comes back as
    it is.
    """
    package = Path(__file__).parent
    places = [Path(name), package.parent / name, package / name]
    return next((place for place in places if place.exists()), Path(name))


def image_manifest(images: str, cache_dir: Path) -> Manifest:
    """Return the image manifest of what the user named, packing it into `cache_dir` first where it is not packed yet.

    Args:
        images: An image manifest, a source file with reader "images" or "scenes", or a folder of images.
        cache_dir: Where shards are written.

    Raises:
        UserError: Nothing of the kind is there, or packing fails; see `pack_images`.
    """
    path = find_file(images)
    if path.is_dir():
        # Two folders of one name must not meet in the cache.
        whole = path.resolve()
        return pack_images(path, cache_dir / f"{whole.name}-{zlib.crc32(str(whole).encode()):08x}")
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        raise UserError(
            expected="an image manifest (.yaml), a source file (.yaml) or a folder of images",
            found=f"{images}: no such file or folder",
            remedy="check the path; `python -m unsam_lightning shards` packs a folder",
        )
    content = _read_yaml(path)
    if isinstance(content, dict) and content.get("format") in FORMATS.values():
        return read_manifest(path, "images")
    source = read_source(path)
    out_dir = cache_dir / source.name
    if source.reader == "images" and source.root is not None:
        about = {"name": source.name, "licence": source.licence, "source": source.source}
        return _with_options(pack_images, source, path, source.root, out_dir, **about)
    if source.reader == "scenes":
        return _with_options(pack_scenes, source, path, out_dir, source.name)
    raise UserError(
        expected="a source of training images (reader images or scenes)",
        found=f"reader {source.reader} in {path}",
        remedy="pass benchmarks as --data.benchmarks",
    )


def pack_scenes(
    out_dir: Path, name: str, *, num_images: int, size: int = 256, first_seed: int = 0, images_per_shard: int = 256
) -> Manifest:
    """Return the manifest of `num_images` scenes, drawn and packed like photographs; their masks are thrown away.

    Args:
        out_dir: Where the shards are written; an existing manifest of the same scenes is used as it is.
        name: Of the data set.
        num_images: Number of scenes.
        size: Side in pixels.
        first_seed: Scene i has seed `first_seed + i`; seeds from 1,000,000 on are the benchmark's.
        images_per_shard: Scenes in a shard.
    """
    from unsam_lightning.scenes import FIRST_TEST_SEED, make_scene

    if not 0 <= first_seed <= first_seed + num_images <= FIRST_TEST_SEED:
        raise UserError(
            expected=f"training scenes with seeds from 0 to {FIRST_TEST_SEED - 1}",
            found=f"first_seed {first_seed} and {num_images} images",
            remedy="choose other seeds; those beyond are kept for tests",
        )
    options = {"num_images": num_images, "size": size, "first_seed": first_seed, "images_per_shard": images_per_shard}
    path = out_dir / f"{name}.yaml"
    if path.is_file():
        manifest = read_manifest(path, "images")
        if manifest.extra.get("options") == options:
            return manifest
        raise UserError(
            expected=f"scenes packed with {options} in {out_dir}",
            found=f"{manifest.extra.get('options')}",
            remedy="give the other set another name, or delete that folder",
        )
    out_dir.mkdir(parents=True, exist_ok=True)
    shards: list[ShardInfo] = []
    for first in range(0, num_images, images_per_shard):
        with ShardWriter(out_dir / f"{name}-{len(shards):06d}.tar") as writer:
            for index in range(first, min(first + images_per_shard, num_images)):
                buffer = io.BytesIO()
                image = make_scene(first_seed + index, size).image
                Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
                about = {"file": f"seed {first_seed + index}", "width": size, "height": size}
                writer.write(f"{name}-{index:08d}", image_files(buffer.getvalue(), about))
        assert writer.info is not None
        shards.append(writer.info)
    extra = {"source": "procedural scenes of unsam_lightning", "licence": "Apache-2.0", "options": options}
    manifest = Manifest(path, "images", name, shards, extra)
    write_manifest(manifest)
    return manifest


def eval_dataset(path: str, max_images: int | None = None, max_masks: int | None = None) -> EvalSubset:
    """Return the benchmark data set of a source file, under the file's name.

    Args:
        path: The source file.
        max_images: See `EvalSubset`.
        max_masks: See `EvalSubset`.

    Raises:
        UserError: See `read_source` and the readers.
    """
    source = read_source(find_file(path))
    return EvalSubset(_open_reader(source, path), max_images, max_masks, name=source.name)


def _open_reader(source: Source, path: str) -> EvalDataset:
    if source.reader == "scenes":
        from unsam_lightning.benchmarks.readers.scenes import ScenesDataset

        return _with_options(ScenesDataset, source, Path(path))
    if source.root is None or source.reader == "images":
        raise UserError(
            expected=f"a benchmark with ground truth in {path}",
            found=f"reader {source.reader}" + ("" if source.root else " without a root"),
            remedy="use reader scenes, bsds500 or mask_folder",
        )
    if source.reader == "bsds500":
        from unsam_lightning.benchmarks.readers.bsds import BSDS500

        return _with_options(BSDS500, source, Path(path), source.root)
    from unsam_lightning.benchmarks.readers.mask_folder import MaskFolder

    options = {
        key: source.root / str(value) if key in ("images", "masks") else value for key, value in source.options.items()
    }
    return _with_options(MaskFolder, replace(source, options=options), Path(path), name=source.name)
