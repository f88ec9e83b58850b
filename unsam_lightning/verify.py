"""Read every shard of a manifest in full and compare: `python -m unsam_lightning shards --verify`.

The quick check, which every run makes, is in `manifest.py`. Next in the tour: `shards.py`.
"""

from __future__ import annotations

from pathlib import Path

from unsam_lightning.manifest import (
    Manifest,
    ShardInfo,
    file_problem,
    read_manifest,
    refuse_if_any,
    scan_shard,
    sha256_file,
)
from unsam_lightning.progress import show_progress


def verify_manifest(path: Path | str) -> Manifest:
    """Return the manifest after reading every shard in full: size, sha256, number and form of the samples.

    Shows on standard error how far it is.

    Raises:
        UserError: With all problems of all shards.
    """
    manifest = read_manifest(path)
    problems = []
    with show_progress(manifest.name, "shards", len(manifest.shards)) as advance:
        for shard in manifest.shards:
            if problem := _problem_inside(manifest.root, shard):
                problems.append(problem)
            advance()
    remedy = "copy these shards again, or delete the manifest and all its shards and make them again"
    refuse_if_any(manifest, problems, remedy)
    return manifest


def _problem_inside(root: Path, shard: ShardInfo) -> str:
    """Say what is wrong with a shard's file, size, samples or checksum; empty if nothing is."""
    problem = file_problem(root, shard)
    if problem.startswith("missing"):
        return problem
    index, found = scan_shard(root / shard.file)
    if len(index) != shard.samples:
        found.append(f"{len(index)} samples instead of {shard.samples}")
    if not problem and (digest := sha256_file(root / shard.file)) != shard.sha256:
        problem = f"{shard.file} has sha256 {digest[:12]}... instead of {shard.sha256[:12]}..."
    return ", ".join([problem or shard.file, *found]) if problem or found else ""
