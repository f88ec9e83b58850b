"""Whatever the user has becomes an image manifest or a benchmark data set: shards, a folder, a source file.

Next in the tour: `mask_sampling.py`.
"""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

from unsam_lightning.aside import lock
from unsam_lightning.benchmarks.open_reader import open_images
from unsam_lightning.benchmarks.subset import EvalSubset
from unsam_lightning.errors import UserError, is_file, is_folder
from unsam_lightning.image_sample import image_files
from unsam_lightning.manifest import FORMATS, Manifest, ShardInfo, read_manifest, write_manifest
from unsam_lightning.pack import pack_images
from unsam_lightning.shards import ShardWriter
from unsam_lightning.source_file import Source, find_file, read_source, read_yaml, with_options


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
        return pack_images(path, cache_dir / f"{whole.name}-{zlib.crc32(os.fsencode(whole)):08x}")
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        raise UserError(
            expected="an image manifest (.yaml), a source file (.yaml) or a folder of images",
            found=f"{images}: no such file or folder",
            remedy="check the path; `python -m unsam_lightning shards` packs a folder",
        )
    content = read_yaml(path)
    if isinstance(content, dict) and content.get("format") in FORMATS.values():
        return read_manifest(path, "images")
    source = read_source(path)
    out_dir = cache_dir / source.name
    if source.reader == "images":
        about = {"name": source.name, "licence": source.licence, "source": source.source}
        return with_options(pack_images, source, _folder_of_images(source), out_dir, **about)
    if source.reader == "scenes":
        return with_options(pack_scenes, source, out_dir, source.name)
    raise UserError(
        expected="a source of training images (reader images or scenes)",
        found=f"reader {source.reader} in {path}",
        remedy="pass benchmarks as --data.benchmarks",
    )


def _folder_of_images(source: Source) -> Path:
    """Return the root of a source of photographs.

    Raises:
        UserError: It is not there; says whose root it is and where its images come from.
    """
    if source.root is not None and is_folder(source.root):
        return source.root
    kind = "a file" if source.root is not None and is_file(source.root) else "missing"
    raise UserError(
        expected=f"a folder of images at the `root` of {source.path}",
        found=f"{source.root}, which is {kind}" if source.root is not None else "no root",
        remedy=f"fetch it ({(source.by_hand or source.source).rstrip('.')}) and correct `root`, "
        "or pass --data.images FOLDER",
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

    Raises:
        UserError: Seeds that are the benchmark's, or other scenes of this name in `out_dir`, or it cannot be written.
    """
    from unsam_lightning.scenes import FIRST_TEST_SEED

    if not 0 <= first_seed <= first_seed + num_images <= FIRST_TEST_SEED:
        raise UserError(
            expected=f"training scenes with seeds from 0 to {FIRST_TEST_SEED - 1}",
            found=f"first_seed {first_seed} and {num_images} images",
            remedy="choose other seeds; those beyond are kept for tests",
        )
    options = {"num_images": num_images, "size": size, "first_seed": first_seed, "images_per_shard": images_per_shard}
    path = out_dir / f"{name}.yaml"
    packed = _packed_scenes(path, options)
    if packed is None:
        with lock(out_dir / ".lock", f"packs {name} into {out_dir}"):
            packed = _packed_scenes(path, options)  # by another process, since the look above
            if packed is None:
                extra = {"source": "procedural scenes of unsam_lightning", "licence": "Apache-2.0", "options": options}
                packed = Manifest(path, "images", name, _draw_scenes(path, **options), extra)
                write_manifest(packed)
    return packed


def _packed_scenes(path: Path, options: dict[str, int]) -> Manifest | None:
    """Return the manifest of the scenes if they are packed already.

    Raises:
        UserError: Other scenes are.
    """
    if not path.is_file():
        return None
    manifest = read_manifest(path, "images")
    if manifest.extra.get("options") == options:
        return manifest
    raise UserError(
        expected=f"scenes packed with {options} in {path.parent}",
        found=f"{manifest.extra.get('options')}",
        remedy="give the other set another name, or delete that folder",
    )


def _draw_scenes(path: Path, num_images: int, size: int, first_seed: int, images_per_shard: int) -> list[ShardInfo]:
    """Draw scenes and write the shards of the manifest that `path` will be."""
    from unsam_lightning.scenes import make_scene

    name, shards = path.stem, list[ShardInfo]()
    for first in range(0, num_images, images_per_shard):
        with ShardWriter(path.with_name(f"{name}-{len(shards):06d}.tar")) as writer:
            for index in range(first, min(first + images_per_shard, num_images)):
                buffer = io.BytesIO()
                image = make_scene(first_seed + index, size).image
                Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
                about = {"file": f"seed {first_seed + index}", "width": size, "height": size}
                writer.write(f"{name}-{index:08d}", image_files(buffer.getvalue(), about))
        assert writer.info is not None
        shards.append(writer.info)
    return shards


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
    about: dict[str, Any] = {"name": table_name(source), "oracle_target": source.oracle_target}
    about["of_videos"] = source.reader == "video_frames"
    return EvalSubset(open_images(source), max_images, max_masks, **about)


def table_name(source: Source) -> str:
    """Return the name of a benchmark's rows in tables: the source's, with that of its draw if it has one."""
    return "_".join([source.name, *([str(source.sample["name"])] if "name" in source.sample else [])])
