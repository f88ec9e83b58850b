"""Source files: a small yaml that says what a data set is, where it lies, how it is read and where it comes from.

    format: unsam_lightning/source/1
    name: bsds500_val
    reader: bsds500                        # how it is read; READERS names them all
    root: ../../shared/data/BSDS500        # relative to the yaml; `python -m unsam_lightning data` fills it in
    options: {split: val}                  # of the reader
    sample: {name: tenth_seed0, seed: 0, share_of_masks: 0.1}   # a draw, see `SampledDataset`
    oracle_target: 0.85                    # IoU to which GraCo's oracle counts clicks; 0.85 for part sets, else 0.9
    counts: {images: 100}                  # what a whole copy holds, to verify one's own
    files: [{url: ..., bytes: ..., sha256: ..., makes: [...]}]  # what can be downloaded
    by_hand: where a person must go, and why
    protocol: how the field samples it, and where we differ
    licence: as stated
    source: in words

Next in the tour: `benchmarks/sample.py`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import yaml

from unsam_lightning.errors import UserError, look

SOURCE_FORMAT = "unsam_lightning/source/1"

#: Readers of training images, of images with masks, of videos with masks.
IMAGE_READERS = ("images", "scenes")
MASK_READERS = (
    *("scenes", "bsds500", "mask_folder", "coco_json", "yolo", "sa1b", "sbd", "pascal_part", "ade20k"),
    "video_frames",
)
VIDEO_READERS = ("video_folder", "sav_json")
READERS = tuple(dict.fromkeys((*IMAGE_READERS, *MASK_READERS, *VIDEO_READERS)))

#: Checksums that are verified, the strongest first.
CHECKSUMS = ("sha256", "md5")

#: IoUs to which clicks are counted in every evaluation.
ORACLE_TARGETS = (0.8, 0.85, 0.9)

_TEXTS = ("licence", "source", "by_hand", "protocol")
_KEYS = {"format", "name", "reader", "root", "options", "sample", "oracle_target", "counts", "files", *_TEXTS}
_COUNTS = {"images", "masks", "videos", "annotated_frames"}

_Made = TypeVar("_Made")


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file that can be downloaded.

    Args:
        url: http or https.
        bytes: Its size; None where it is not published.
        sha256: Hexadecimal; empty where it is not published.
        md5: The same.
        makes: Files and folders, relative to the root, that are there once it is downloaded and (zip, tar) unpacked.
    """

    url: str
    bytes: int | None = None
    sha256: str = ""
    md5: str = ""
    makes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file's name, the last part of its address."""
        return PurePosixPath(self.url).name


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source file's content; see the module's docstring.

    Args:
        path: The file itself.
        name: Of the data set; names its shards and its rows in tables.
        reader: One of `READERS`.
        root: Folder with the data, absolute; None for generated data, and before `data` has put them somewhere.
        options: Passed to the reader.
        sample: Passed to `SampledDataset`; empty for all.
        oracle_target: IoU to which clicks are counted where GraCo's oracle chooses a granularity, one of
            `ORACLE_TARGETS`; part of the data set's protocol.
        counts: Images, masks (after `sample`), videos, annotated frames of a whole copy; those that are known.
        files: What can be downloaded.
        by_hand: What a person must fetch, where and why; empty if nothing.
        protocol: How the field samples it.
        licence: As stated by whoever made the data.
        source: Where the data come from, in words.
    """

    path: Path
    name: str
    reader: str
    root: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)
    sample: dict[str, Any] = field(default_factory=dict)
    oracle_target: float = 0.9
    counts: dict[str, int] = field(default_factory=dict)
    files: tuple[RemoteFile, ...] = ()
    by_hand: str = ""
    protocol: str = ""
    licence: str = "unknown"
    source: str = "unknown"


def read_source(path: Path) -> Source:
    """Return a source file's content.

    Raises:
        UserError: Missing file, not yaml, another format, unknown reader, missing or malformed fields.
    """
    content = read_yaml(path)
    found = content.get("format") if isinstance(content, dict) else None
    if found != SOURCE_FORMAT:
        raise UserError(
            expected=f"format {SOURCE_FORMAT} in {path}",
            found=f"format {found}",
            remedy="see data_manifests/ for examples",
        )
    problems = [f"unknown key {key}" for key in sorted(set(content) - _KEYS)]
    problems += [f"no key {key}" for key in ("name", "reader") if key not in content]
    if content.get("reader") not in READERS:
        problems.append(f"reader {content.get('reader')!r}, not one of {', '.join(READERS)}")
    if not re.fullmatch(r"[\w-]+", str(content.get("name", "none"))):  # it names files and folders
        problems.append(f"name {content['name']!r}, not of letters, digits, _ and - only")
    mappings: dict[str, Any] = {key: content.get(key, {}) for key in ("options", "sample", "counts")}
    problems += [f"{key} {value!r}, not a mapping" for key, value in mappings.items() if not isinstance(value, dict)]
    oracle_target = content.get("oracle_target", Source.oracle_target)
    if oracle_target not in ORACLE_TARGETS:
        problems.append(f"oracle_target {oracle_target!r}, not one of {', '.join(map(str, ORACLE_TARGETS))}")
    if not isinstance(content.get("files", []), list):
        problems.append(f"files {content['files']!r}, not a list")
    if not problems:
        wrong = {key: n for key, n in mappings["counts"].items() if key not in _COUNTS or not _is_count(n)}
        problems += [f"counts {wrong}, not numbers of {', '.join(sorted(_COUNTS))}"] * bool(wrong)
        problems += [problem for about in content.get("files", []) if (problem := _file_problem(about))]
    if problems:
        raise UserError(expected=f"a complete source file at {path}", found="; ".join(problems), remedy="correct it")
    root = (path.parent / str(content["root"])).resolve() if "root" in content else None
    files = tuple(RemoteFile(**{**about, "makes": tuple(about["makes"])}) for about in content.get("files", []))
    rest: dict[str, Any] = {key: str(content[key]).strip() for key in _TEXTS if key in content}
    rest["oracle_target"] = oracle_target
    name, reader = str(content["name"]), content["reader"]
    return Source(path=path, name=name, reader=reader, root=root, files=files, **mappings, **rest)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _file_problem(about: Any) -> str:
    """Say what is wrong with one entry of `files`; empty if nothing is."""
    if not isinstance(about, dict) or not {"url", "makes"} <= set(about) <= {"url", "bytes", *CHECKSUMS, "makes"}:
        return f"files entry {about!r}, which needs url and makes and may have bytes, {', '.join(CHECKSUMS)}"
    if not re.fullmatch(r"https?://\S+/[\w.-]+", str(about["url"])):
        return f"url {about['url']!r}, not an http(s) address that ends in a file's name"
    makes = about["makes"]
    inside = isinstance(makes, list) and all(isinstance(m, str) and ".." not in m and m[:1] != "/" for m in makes)
    if not makes or not inside:
        return f"makes {makes!r}, not a list of paths below the root"
    lengths = {"sha256": 64, "md5": 32}
    wrong = [
        key for key in CHECKSUMS if key in about and not re.fullmatch(rf"[0-9a-f]{{{lengths[key]}}}", str(about[key]))
    ]
    wrong += ["bytes"] * ("bytes" in about and not _is_count(about["bytes"]))
    return f"{', '.join(wrong)} of {about['url']} malformed" if wrong else ""


def read_yaml(path: Path) -> Any:
    """Return a yaml file's content.

    Raises:
        UserError: It is missing or no yaml.
    """
    try:
        return yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise UserError(expected=f"a yaml file at {path}", found=str(reason), remedy="check the path") from None


def with_options(make: Callable[..., _Made], source: Source, /, *args: Any, **named: Any) -> _Made:
    """Return what `make` makes with a source's options; an option that it does not take is a `UserError`."""
    signature = inspect.signature(make)
    try:
        signature.bind(*args, **named, **source.options)
    except TypeError as error:
        raise UserError(
            expected=f"options that reader {source.reader} takes in {source.path}",
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
    return next((place for place in places if look(place) is not None), Path(name))
