"""The ground-truth masks of a data set as COCO results, which labelling takes as proposals or as masks to merge.

    python -m unsam_lightning.benchmarks.annotations_json data_manifests/bsds500_train_people.yaml cache/people.json

Next in the tour: `prompts.py`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from unsam_lightning.aside import write_text_aside
from unsam_lightning.errors import UserError, exit_with_one_line
from unsam_lightning.pairs import encode_masks
from unsam_lightning.progress import show_progress
from unsam_lightning.sources import eval_dataset


def results_of(source: str) -> list[dict[str, Any]]:
    """Return a data set's masks as COCO results: `image_id` (the image's name), `segmentation`, and 1 as `score`.

    Args:
        source: A source file with annotations.

    Raises:
        UserError: There is no mask; see `sources.eval_dataset`.
    """
    dataset = eval_dataset(source)
    results = []
    with show_progress(dataset.name, "images", len(dataset)) as one_more:
        for index in range(len(dataset)):
            sample = dataset[index]
            size = list(sample.image.shape[:2])
            for counts in encode_masks(sample.masks == 1):
                segmentation = {"size": size, "counts": counts}
                results.append({"image_id": sample.key, "category_id": 1, "segmentation": segmentation, "score": 1.0})
            one_more()
    if not results:
        raise UserError(
            expected=f"masks in {source}", found="none", remedy="give a source with annotations, see data_manifests/"
        )
    return results


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(prog="python -m unsam_lightning.benchmarks.annotations_json", description=__doc__)
    parser.add_argument("source", help="a source file with annotations, see data_manifests/")
    parser.add_argument("out", type=Path, help="the JSON to write")
    options = parser.parse_args()
    with exit_with_one_line():
        results = results_of(options.source)
        write_text_aside(options.out, json.dumps(results))
    print(f"{len(results)} masks in {options.out}")


if __name__ == "__main__":
    main()
