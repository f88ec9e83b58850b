"""The numbers of the paper, with the protocol that each was made by.

Source: UnSAMv2, arXiv 2511.13714, tables 1 to 3; GraCo's and SimpleClick's rows are the paper's too.
Next in the tour: `report/runs.py`.
"""

from __future__ import annotations

from typing import NamedTuple


class PublishedTable(NamedTuple):
    """A table of the paper.

    Args:
        title: What it shows.
        protocol: How its numbers were made, as far as the paper and the code that it names say.
        columns: Data sets.
        rows: Method and its numbers, one for each column, separated by |.
    """

    title: str
    protocol: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]


_ORACLE = (
    "Cells: NoC80/NoC90/1-IoU %; NoC85 in place of NoC90 for PascalPart and PartImageNet. Rows with * let the "
    "ground truth choose the granularity of each object out of ten (GraCo's oracle: fewest clicks to IoU 0.90, of the "
    "two part sets to 0.85): compare them with our rows of that name, and with the base's best of three, which the "
    "paper does not have. Model: SAM-2.1 small."
)

PUBLISHED = (
    PublishedTable(
        "Interactive, against SAM-2 (table 1 of the paper)",
        _ORACLE,
        ("GrabCut", "Berkeley", "SBD", "PascalPart", "PartImageNet"),
        (
            "SAM-2 | 1.48/1.54/76.8 | 1.29/1.72/80.0 | 2.85/6.73/64.6 | 9.37/11.80/29.0 | 5.09/6.64/39.5",
            "UnSAMv2* | 1.16/1.30/91.4 | 1.10/1.60/90.8 | 2.75/5.97/74.8 | 7.84/9.59/51.5 | 4.21/5.29/57.1",
            "UnSAMv2+* | 1.22/1.26/92.6 | 1.12/1.37/91.1 | 2.55/5.72/77.3 | 7.87/9.67/52.0 | 3.75/4.77/60.7",
        ),
    ),
    PublishedTable(
        "Interactive, against earlier work (table 2 of the paper)",
        _ORACLE,
        ("GrabCut", "Berkeley", "DAVIS", "SA-1B", "PartImageNet"),
        (
            "SimpleClick | 1.32/1.48/89.6 | 1.26/2.44/84.6 | 2.88/5.38/75.6 | 4.80/7.27/21.9 | 6.34/7.76/29.2",
            "GraCo* | 1.24/1.32/91.1 | 1.17/1.63/88.7 | 2.84/5.09/74.0 | 2.41/4.01/66.2 | 4.11/5.03/51.7",
            "SAM-2 | 1.48/1.54/76.8 | 1.29/1.72/80.0 | 2.51/4.50/71.7 | 1.82/3.76/77.1 | 5.09/6.64/39.5",
            "UnSAMv2* | 1.16/1.30/91.4 | 1.10/1.60/90.8 | 2.75/4.66/84.7 | 2.18/4.16/72.4 | 4.21/5.29/57.1",
            "UnSAMv2+* | 1.22/1.26/92.6 | 1.12/1.37/91.1 | 2.36/4.40/85.7 | 1.87/3.69/78.4 | 3.75/4.77/60.7",
        ),
    ),
    PublishedTable(
        "Whole image (table 3 of the paper)",
        "Cells: AR1000 %, class-agnostic COCO recall. UnSAMv2: union of ten runs of the automatic mask generator, one "
        "for each granularity, after a filter that the paper does not state. SAM and UnSAM were copied from the UnSAM "
        "paper; SAM is ViT-B, no SAM-2 was measured.",
        ("COCO", "LVIS", "ADE20K", "EntitySeg", "SA-1B"),
        (
            "SAM | 49.6 | 46.1 | 45.8 | 45.9 | 60.8",
            "UnSAM | 40.5 | 37.7 | 35.7 | 39.6 | 41.9",
            "UnSAM+ | 52.2 | 50.8 | 45.3 | 49.8 | 64.8",
            "UnSAMv2 | 74.5 | 63.8 | 68.4 | 64.3 | 70.6",
            "UnSAMv2+ | 79.1 | 70.3 | 72.7 | 70.3 | 77.9",
        ),
    ),
)
