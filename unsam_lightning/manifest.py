"""Manifests: the yaml beside a set of tar shards that says what must be there, and a quick check against it.

An image manifest describes packed images (`pack.py`), a label manifest the mask-granularity pairs made from them; both
list their shards in the same way. Light on purpose: no torch. Next in the tour: `verify.py`.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from unsam_lightning.aside import write_text_aside
from unsam_lightning.errors import UserError

Kind = Literal["images", "labels"]

#: First line of a manifest, by kind. The number changes when an older reader could no longer read the file.
FORMATS: dict[Kind, str] = {"images": "unsam_lightning/images/1", "labels": "unsam_lightning/labels/1"}

_REQUIRED: dict[Kind, tuple[str, ...]] = {
    "images": ("name", "source", "licence", "num_images", "shards"),
    "labels": ("name", "recipe", "recipe_hash", "num_images", "shards"),
}
_MAX_LISTED = 10  # problems that one error spells out; the others are counted

#: Where the files of every sample lie in a tar: key -> extension -> (offset, size), in bytes, in the tar's order.
TarIndex = dict[str, dict[str, tuple[int, int]]]


@dataclass(frozen=True)
class ShardInfo:
    """One shard as a manifest lists it.

    Args:
        file: File name, without folders; the shard lies beside its manifest.
        samples: Number of samples, at least 1.
        bytes: Size of the tar file.
        sha256: Checksum of the tar file, 64 hexadecimal digits.
    """

    file: str
    samples: int
    bytes: int
    sha256: str


@dataclass
class Manifest:
    """What a set of shards holds.

    Args:
        path: The yaml file.
        kind: "images" or "labels".
        name: What the keys and the shard files begin with.
        shards: The shards in the order of their samples.
        extra: Every other field of the yaml (licence, options, recipe, ...), plain values only.
    """

    path: Path
    kind: Kind
    name: str
    shards: list[ShardInfo]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def num_samples(self) -> int:
        """Number of samples in all shards; `num_images` in the yaml."""
        return sum(shard.samples for shard in self.shards)

    @property
    def root(self) -> Path:
        """The folder of the yaml and of its shards."""
        return self.path.parent


def read_manifest(path: Path | str, kind: Kind | None = None) -> Manifest:
    """Return the manifest in a yaml file; the shards themselves are not looked at.

    Args:
        path: The yaml file.
        kind: The kind that the caller can use; None takes both.

    Raises:
        UserError: The file is missing, not yaml, of another format or kind, incomplete or contradicts itself.
    """
    path = Path(path)
    remedy = "give the .yaml that `python -m unsam_lightning shards` (images) or `label` (labels) wrote"
    try:
        content = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not yaml: " + " ".join(str(error).split())
        raise UserError(expected=f"a manifest at {path}", found=str(reason), remedy=remedy) from error
    kinds: dict[Any, Kind] = {FORMATS[known]: known for known in FORMATS if kind in (None, known)}
    found_format = content.get("format") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(found_format, str) or found_format not in kinds:
        raise UserError(
            expected=f"a manifest with format {' or '.join(kinds)} at {path}",
            found=f"format {found_format}" if found_format is not None else "no format line",
            remedy=remedy,
        )
    problems = _content_problems(content, kinds[found_format])
    if problems:
        raise UserError(expected=f"a complete manifest at {path}", found="; ".join(problems), remedy=remedy)
    shards = [ShardInfo(**shard) for shard in content["shards"]]
    extra = {key: value for key, value in content.items() if key not in ("format", "name", "num_images", "shards")}
    return Manifest(path, kinds[found_format], content["name"], shards, extra)


def _content_problems(content: dict[str, Any], kind: Kind) -> list[str]:
    problems = [f"no `{key}`" for key in _REQUIRED[kind] if key not in content]
    if not isinstance(content.get("name", ""), str):
        problems.append(f"name {content['name']!r}, which is no text")
    shards = content.get("shards", [])
    if not isinstance(shards, list) or ("shards" in content and not shards):
        return [*problems, "`shards` that is no list of shards"]
    bad = [f"shard {number}: {problem}" for number, shard in enumerate(shards) if (problem := _shard_problem(shard))]
    if not bad and not problems:
        num_listed = sum(shard["samples"] for shard in shards)
        if content["num_images"] != num_listed:
            bad.append(f"num_images {content['num_images']} but {num_listed} samples in the listed shards")
        if len({shard["file"] for shard in shards}) != len(shards):
            bad.append("the same shard file listed twice")
    return problems + bad[:_MAX_LISTED]


def _shard_problem(shard: object) -> str:
    """Say what is wrong with one entry of `shards`; empty if it is right."""
    if not isinstance(shard, dict) or set(shard) != {"file", "samples", "bytes", "sha256"}:
        return "needs file, samples, bytes and sha256, and nothing else"
    name = shard["file"]
    # A name with folders could make us read, or a later tool write, anywhere.
    if not isinstance(name, str) or not name or name in (".", "..") or re.search(r"[/\\\0]", name):
        return f"file {name!r} is not a plain file name"
    if any(type(shard[key]) is not int or shard[key] < 1 for key in ("samples", "bytes")):
        return "samples and bytes are whole numbers above 0"
    if not isinstance(shard["sha256"], str) or not re.fullmatch("[0-9a-f]{64}", shard["sha256"]):
        return "sha256 is 64 hexadecimal digits"
    return ""


def write_manifest(manifest: Manifest) -> None:
    """Write the manifest's yaml, aside first and then renamed.

    The same manifest gives the same bytes on every machine.

    Raises:
        UserError: The file cannot be written.
    """
    content = {
        "format": FORMATS[manifest.kind],
        "name": manifest.name,
        "num_images": manifest.num_samples,
        **manifest.extra,
        "shards": [asdict(shard) for shard in manifest.shards],
    }
    # Always the Python dumper: libyaml's folds and quotes a little differently. One shard, one line.
    text = yaml.dump(
        content, Dumper=yaml.SafeDumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=1 << 30
    )
    write_text_aside(manifest.path, text)


def check_files(manifest: Manifest) -> None:
    """Check quickly that every shard is there and has the size that the manifest lists.

    Raises:
        UserError: With all shards that are missing or have another size.
    """
    problems = [problem for shard in manifest.shards if (problem := file_problem(manifest.root, shard))]
    remedy = f"run `python -m unsam_lightning shards --verify {manifest.path}`, then copy or pack those shards again"
    refuse_if_any(manifest, problems, remedy)


def refuse_if_any(manifest: Manifest, problems: list[str], remedy: str) -> None:
    """Raise one `UserError` about all problems that the shards have; do nothing if there are none."""
    if not problems:
        return
    num_found = sum((manifest.root / shard.file).is_file() for shard in manifest.shards)
    more = f"; and {len(problems) - _MAX_LISTED} more" if len(problems) > _MAX_LISTED else ""
    raise UserError(
        expected=f"{len(manifest.shards)} shards as {manifest.path.name} lists",
        found=f"{num_found}: {'; '.join(problems[:_MAX_LISTED])}{more}",
        remedy=remedy,
    )


def file_problem(root: Path, shard: ShardInfo) -> str:
    """Say whether a shard is missing from a folder or has another size; empty if neither."""
    try:
        size = (root / shard.file).stat().st_size
    except OSError:
        return f"missing {shard.file}"
    return "" if size == shard.bytes else f"{shard.file} has {size} bytes instead of {shard.bytes}"


def scan_shard(path: Path) -> tuple[TarIndex, list[str]]:
    """Return where each sample's files lie in a tar, from the headers alone, and what is wrong with the tar.

    A member `key.ext` belongs to sample `key`: the base name up to its first dot, as in WebDataset. Neither tarfile nor
    WebDataset notices a tar that was cut between two members; the caller compares counts.
    """
    index: TarIndex = {}
    problems: list[str] = []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, slash, base = member.name.rpartition("/")
                stem, _, extension = base.partition(".")
                files = index.setdefault(folder + slash + stem, {})
                if extension in files or not member.isfile():
                    problems.append(f"member {member.name} is " + ("there twice" if member.isfile() else "no file"))
                files[extension] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        problems.append(f"not a complete tar ({error})")
    return index, problems


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
