"""Go through a whole benchmark: how much there is, what is left out or odd, what cannot be read.

Next in the tour: `sources.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from unsam_lightning.benchmarks.open_reader import open_images, open_videos
from unsam_lightning.benchmarks.sample import KeyedDataset, Remark, VideoDataset
from unsam_lightning.errors import UserError
from unsam_lightning.progress import show_progress
from unsam_lightning.source_file import VIDEO_READERS, Source

#: How many masks that are used all the same are named for each kind of remark; those left out are all named.
NUM_EXAMPLES = 10


@dataclass(kw_only=True, slots=True)
class DataReport:
    """What a copy of a data set holds.

    Args:
        counts: Of what was counted: images and masks, or videos, annotated_frames and masks.
        stated: What the source file says; compared where both have a number.
        left_out: For each reason the masks left out, "image: mask (detail)".
        odd: For each reason how many masks are used though something is odd about them.
        odd_examples: For each reason the first of them.
        unreadable: Images or videos that could not be read, and why.
    """

    counts: dict[str, int] = field(default_factory=dict)
    stated: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    odd: dict[str, int] = field(default_factory=dict)
    odd_examples: dict[str, list[str]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    def add(self, key: str, remarks: list[Remark]) -> None:
        """Take up the remarks of an image or frame."""
        for remark in remarks:
            if remark.kept:
                self.odd[remark.reason] = self.odd.get(remark.reason, 0) + 1
                if len(examples := self.odd_examples.setdefault(remark.reason, [])) < NUM_EXAMPLES:
                    examples.append(remark.named(key))
            else:
                self.left_out.setdefault(remark.reason, []).append(remark.named(key))

    @contextlib.contextmanager
    def unreadable_as(self, name: str) -> Iterator[None]:
        """Take up what a user must mend, raised inside the block, instead of ending."""
        try:
            yield
        except UserError as error:
            self.unreadable.append(f"{name}: {error}")

    def problems(self) -> list[str]:
        """Return what makes the copy unfit: files that cannot be read, counts that are not as stated."""
        found = [f"{len(self.unreadable)} that cannot be read, first {self.unreadable[0]}"] if self.unreadable else []
        return found + [
            f"{self.counts[kind]} {kind.replace('_', ' ')} instead of {number}"
            for kind, number in self.stated.items()
            if self.counts.get(kind, number) != number
        ]

    def lines(self) -> list[str]:
        """Return the report for people, one fact a line."""
        lines = [", ".join(f"{number} {kind.replace('_', ' ')}" for kind, number in self.counts.items())]
        lines += [f"left out, {reason}: {len(names)} (first {names[0]})" for reason, names in self.left_out.items()]
        lines += [
            f"used, {reason}: {count} (first {self.odd_examples[reason][0]})" for reason, count in self.odd.items()
        ]
        return lines + [f"cannot be read: {text}" for text in self.unreadable[:NUM_EXAMPLES]]


def verify_data(source: Source, quick: bool = False) -> DataReport:
    """Return the report on a benchmark: what it holds, what is left out or odd.

    Args:
        source: With a root.
        quick: Only the layout is checked and images or videos are counted. Otherwise every image and mask is opened;
            of videos every map and the first frame.

    Raises:
        UserError: The data set as a whole cannot be opened; see its reader.
    """
    report = DataReport(stated=source.counts)
    if source.reader in VIDEO_READERS:
        videos = open_videos(source)
        report.counts["videos"] = len(videos)
        if not quick:
            _look_at_videos(report, videos)
    else:
        images = open_images(source)
        report.counts["images"] = len(images)
        if not quick:
            _look_at_images(report, images)
    return report


def _look_at_images(report: DataReport, dataset: KeyedDataset) -> None:
    report.counts["masks"] = 0
    with show_progress(dataset.name, "images", len(dataset)) as advance:
        for index, key in enumerate(dataset.keys):
            with report.unreadable_as(key):
                sample = dataset[index]
                report.counts["masks"] += len(sample.ids)
                report.add(key, sample.remarks)
            advance()


def _look_at_videos(report: DataReport, dataset: VideoDataset) -> None:
    """Open every map, and the first frame: all frames of the larger sets are days of decoding."""
    report.counts |= {"annotated_frames": 0, "masks": 0}
    with show_progress(dataset.name, "videos", len(dataset)) as advance:
        for index, key in enumerate(dataset.keys):
            with report.unreadable_as(key):
                video = dataset[index]
                size: tuple[int, ...] | None = None
                with report.unreadable_as(f"{key}/{video.frames[0]}"):
                    size = video.image(0).shape[:2]
                for frame in video.annotated:
                    with report.unreadable_as(f"{key}/{video.frames[frame]}"):
                        masks, ids, remarks = video.masks(frame)
                        _refuse_other_size(masks.shape[1:], size or masks.shape[1:])
                        report.counts["annotated_frames"] += 1
                        report.counts["masks"] += len(ids)
                        report.add(f"{key}/{video.frames[frame]}", remarks)
            advance()


def _refuse_other_size(masks: tuple[int, ...], frame: tuple[int, ...]) -> None:
    if masks != frame:
        raise UserError(
            expected=f"maps of the frames' size, {frame[1]}x{frame[0]}",
            found=f"{masks[1]}x{masks[0]}",
            remedy="take both from the same copy of the data set",
        )
