"""The reader that a source file names, opened: a data set of images, or of videos, with masks.

Next in the tour: `benchmarks/download.py`.
"""

from __future__ import annotations

from pathlib import Path

from unsam_lightning.benchmarks.sample import KeyedDataset, VideoDataset
from unsam_lightning.benchmarks.sampling import SampledDataset
from unsam_lightning.errors import UserError
from unsam_lightning.source_file import MASK_READERS, VIDEO_READERS, Source, with_options


def open_images(source: Source) -> KeyedDataset:
    """Return the images and masks of a source, drawn as its `sample` says.

    Raises:
        UserError: The reader is none of images with masks, or has no root; an option is unknown; or see the reader.
    """
    dataset = _open_images(source)
    if not source.sample:
        return dataset
    # The draw has a name of its own; options that it does not take are reported as the reader's are.
    drawn = Source(path=source.path, name=source.name, reader=f"{source.reader} with sample", options=source.sample)
    return with_options(SampledDataset, drawn, dataset)


def _open_images(source: Source) -> KeyedDataset:
    if source.reader == "scenes":
        from unsam_lightning.benchmarks.readers.scenes import ScenesDataset

        return with_options(ScenesDataset, source)
    root = _root(source, MASK_READERS, "a benchmark with ground truth")
    # Imports wait for the reader: scipy, pycocotools and OpenCV are heavy.
    if source.reader == "bsds500":
        from unsam_lightning.benchmarks.readers.bsds import BSDS500

        return with_options(BSDS500, source, root)
    if source.reader == "mask_folder":
        from unsam_lightning.benchmarks.readers.mask_folder import MaskFolder

        return with_options(MaskFolder.below, source, root, name=source.name)
    if source.reader == "coco_json":
        from unsam_lightning.benchmarks.readers.coco_json import CocoJson

        return with_options(CocoJson, source, root, name=source.name)
    if source.reader == "sa1b":
        from unsam_lightning.benchmarks.readers.sa1b import SA1B

        return with_options(SA1B, source, root, name=source.name)
    if source.reader == "sbd":
        from unsam_lightning.benchmarks.readers.mat_files import SBD

        return with_options(SBD, source, root)
    if source.reader == "pascal_part":
        from unsam_lightning.benchmarks.readers.mat_files import PascalPart

        return with_options(PascalPart, source, root)
    if source.reader == "yolo":
        from unsam_lightning.benchmarks.readers.yolo import YoloFolder

        return with_options(YoloFolder, source, root, name=source.name)
    if source.reader == "video_frames":
        from unsam_lightning.benchmarks.readers.video_frames import VideoFrames

        return with_options(VideoFrames, source, root, name=source.name)
    from unsam_lightning.benchmarks.readers.ade20k import ADE20K

    return with_options(ADE20K, source, root)


def open_videos(source: Source) -> VideoDataset:
    """Return the videos and masks of a source.

    Raises:
        UserError: The reader is none of videos, or has no root; an option is unknown; or see the reader.
    """
    root = _root(source, VIDEO_READERS, "a video benchmark")
    if source.reader == "sav_json":
        from unsam_lightning.benchmarks.readers.sav_json import SAVJson

        return with_options(SAVJson, source, root, name=source.name)
    from unsam_lightning.benchmarks.readers.video_folder import VideoFolder

    return with_options(VideoFolder, source, root, name=source.name)


def _root(source: Source, readers: tuple[str, ...], what: str) -> Path:
    """Return the source's root; refuse other readers, and sources whose data have no place yet."""
    if source.root is not None and source.reader in readers:
        return source.root
    fitting = source.reader in readers
    raise UserError(
        expected=f"{what} in {source.path}",
        found=f"reader {source.reader}" + ("" if source.root else " without a root"),
        remedy=f"`python -m unsam_lightning data {source.name} --root DIR` writes a source file with a root"
        if fitting
        else f"use reader {', '.join(readers)}",
    )
