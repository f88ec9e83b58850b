"""How fast the benchmarks are on this machine.

Anyone can repeat it:

    python -m unsam_lightning.benchmarks.speed --threads 1
    python -m unsam_lightning.benchmarks.speed --threads 1 --against_generator

Next in the tour: `benchmarks/step_memory.py`.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch

from unsam_lightning.benchmarks.interactive import evaluate_interactive
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.benchmarks.tables import computed
from unsam_lightning.benchmarks.whole_image import proposal_recall, propose_masks
from unsam_lightning.decoder import Embedding
from unsam_lightning.granularity import SWEEP
from unsam_lightning.metrics.proposals import AverageRecall
from unsam_lightning.model import UnSAM
from unsam_lightning.pairs import encode_masks
from unsam_lightning.segment.stock import mask_generator
from unsam_lightning.sources import eval_dataset


class _Clock:
    """Adds up wall clock and processor seconds of its `with` blocks."""

    def __init__(self) -> None:
        self.wall = self.processor = 0.0

    def __enter__(self) -> None:
        self.wall -= time.perf_counter()
        self.processor -= time.process_time()

    def __exit__(self, *exception: object) -> None:
        self.wall += time.perf_counter()
        self.processor += time.process_time()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m unsam_lightning.benchmarks.speed", description=__doc__)
    parser.add_argument("--source", default="data_manifests/scenes_test.yaml", help="a benchmark with ground truth")
    parser.add_argument("--model", default="nano", help="name or checkpoint")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--masks", type=int, default=6, help="at most this many of each image")
    parser.add_argument("--points_per_side", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--against_generator", action="store_true", help="ten runs of SAM2AutomaticMaskGenerator too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = UnSAM.from_pretrained(options.model)
    dataset = eval_dataset(options.source, options.images, options.masks)
    samples = [dataset[index] for index in range(len(dataset))]
    print(f"{options.model}, {options.source}, {len(samples)} images, torch threads {options.threads}")
    _interactive(model, samples)
    _whole_image(model, samples, options.points_per_side, options.against_generator)
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def _encode(model: UnSAM, sample: EvalSample) -> Embedding:
    return model.encode(torch.from_numpy(sample.image).permute(2, 0, 1)[None].to(model.device))


def _interactive(model: UnSAM, samples: list[EvalSample]) -> None:
    """Time sessions of ten granularities: as the benchmark runs them, and all of them to the twentieth click."""
    num_objects = sum(len(sample.masks) for sample in samples)
    evaluate_interactive(model, _encode(model, samples[0]), samples[0], max_clicks=2)  # compiles
    for name, target in (("until IoU 0.90", 0.9), ("always 20 clicks", 1.01)):
        clock, num_clicks = _Clock(), 0
        for sample in samples:
            with clock:
                embedding = _encode(model, sample)
                sessions = evaluate_interactive(model, embedding, sample, methods=("tuned",), fixed=(), target=target)
            num_clicks += sum(len(session.ious) for session in sessions)
        print(
            f"interactive, 10 granularities, {name}: {num_objects / clock.wall:.1f} objects/s by the clock, "
            f"{num_objects / clock.processor:.1f} a processor second; {num_clicks / num_objects:.0f} clicks an object"
        )


def _whole_image(model: UnSAM, samples: list[EvalSample], points_per_side: int, with_generator: bool) -> None:
    """Time the proposals of ten granularities, and compare with ten runs of SAM-2's generator at them."""
    ours, theirs = (_Clock(), AverageRecall()), (_Clock(), AverageRecall())
    for sample in samples:
        with ours[0]:
            found = propose_masks(model, _encode(model, sample), points_per_side=points_per_side).distinct()
        ours[1].merge_state(proposal_recall(found, sample))
        if with_generator:
            with theirs[0]:
                records = [
                    record
                    for g in SWEEP
                    for record in mask_generator(model, g, points_per_side=points_per_side).generate(sample.image)
                ]
            records.sort(key=lambda record: -record["predicted_iou"])
            rles = encode_masks(np.array([record["segmentation"] for record in records[:1000]], dtype=bool))
            coco = [{"size": list(sample.image.shape[:2]), "counts": rle.encode("ascii")} for rle in rles]
            theirs[1].update(sample.masks, coco, [record["predicted_iou"] for record in records[:1000]])
    compared = {"propose_masks": ours} | ({"ten runs of SAM2AutomaticMaskGenerator": theirs} if with_generator else {})
    for name, (clock, metric) in compared.items():
        recall = computed(metric, [])["AR@1000"]
        print(
            f"whole image, {points_per_side} x {points_per_side} points, 10 granularities, {name}: "
            f"{clock.wall / len(samples):.2f} s an image by the clock, {clock.processor / len(samples):.2f} s of "
            f"processors; AR1000 {100 * recall:.1f} %"
        )


if __name__ == "__main__":
    main()
