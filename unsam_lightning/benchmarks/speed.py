r"""How fast the benchmarks are on this machine.

Anyone can repeat it:

    python -m unsam_lightning.benchmarks.speed --threads 1
    python -m unsam_lightning.benchmarks.speed --threads 1 --what whole_image --against_generator --masks 1000 \
        --model RUN/checkpoints/last.ckpt --source data_manifests/bsds500_val.yaml

Next in the tour: `benchmarks/step_memory.py`.
"""

from __future__ import annotations

import argparse
import time
from typing import get_args

import torch

from unsam_lightning.benchmarks.interactive import evaluate_interactive
from unsam_lightning.benchmarks.label_memory import peak_gb
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.benchmarks.tables import computed
from unsam_lightning.benchmarks.whole_image import proposal_recall, propose_masks, rank_distinct
from unsam_lightning.decoder import Embedding
from unsam_lightning.errors import exit_with_one_line
from unsam_lightning.granularity import SWEEP
from unsam_lightning.metrics.proposals import AverageRecall
from unsam_lightning.model import UnSAM
from unsam_lightning.one_image import Precision, image_tensor
from unsam_lightning.pairs import decode_masks
from unsam_lightning.segment.stock import mask_generator
from unsam_lightning.sources import eval_dataset


class _Clock:
    """Adds up wall clock and CPU-seconds of its `with` blocks."""

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
    parser.add_argument(
        "--what", nargs="+", choices=("interactive", "whole_image"), default=("interactive", "whole_image")
    )
    parser.add_argument("--source", default="data_manifests/scenes_test.yaml", help="a benchmark with ground truth")
    parser.add_argument("--model", default="nano", help="name or checkpoint")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--masks", type=int, default=6, help="at most this many of each image")
    parser.add_argument("--points_per_side", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--precision", choices=get_args(Precision), default="float32", help="of our decoder passes")
    parser.add_argument("--against_generator", action="store_true", help="ten runs of SAM2AutomaticMaskGenerator too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = UnSAM.from_pretrained(options.model)
    dataset = eval_dataset(options.source, options.images, options.masks)
    samples = [dataset[index] for index in range(len(dataset))]
    print(f"{options.model}, {options.source}, {len(samples)} images, torch threads {options.threads}")
    if "interactive" in options.what:
        _interactive(model, samples, options.precision)
    if "whole_image" in options.what:
        _whole_image(model, samples, options.points_per_side, options.precision, options.against_generator)
    print(f"peak memory of the process: {peak_gb():.2f} GB")


def _encode(model: UnSAM, sample: EvalSample) -> Embedding:
    return model.encode(image_tensor(sample.image, model.device))


def _interactive(model: UnSAM, samples: list[EvalSample], precision: Precision) -> None:
    """Time sessions of ten granularities: as the benchmark runs them, and all of them to the twentieth click."""
    num_objects = sum(len(sample.masks) for sample in samples)
    evaluate_interactive(model, _encode(model, samples[0]), samples[0], max_clicks=2, precision=precision)  # compiles
    for name, target in (("until IoU 0.90", 0.9), ("always 20 clicks", 1.01)):
        clock, num_clicks = _Clock(), 0
        for sample in samples:
            with clock:
                embedding = _encode(model, sample)
                sessions = evaluate_interactive(
                    model, embedding, sample, methods=("tuned",), fixed=(), target=target, precision=precision
                )
            num_clicks += sum(len(session.ious) for session in sessions)
        print(
            f"interactive, 10 granularities, {name}: {num_objects / clock.wall:.1f} objects/s by the clock, "
            f"{num_objects / clock.processor:.1f} per CPU-second; {num_clicks / num_objects:.0f} clicks an object"
        )


def _whole_image(
    model: UnSAM, samples: list[EvalSample], points_per_side: int, precision: Precision, with_generator: bool
) -> None:
    """Time the proposals of ten granularities, and compare with ten runs of SAM-2's generator at them."""
    parts = {name: _Clock() for name in ("encoder", "decoder", "thinning", "masks in the image's size, as RLE")}
    encoder, decoder, thinning, enlarging = parts.values()
    ours, whole = AverageRecall(), _Clock()
    few = propose_masks(model, _encode(model, samples[0]), points_per_side=2, precision=precision)
    few.distinct().rles(9, 9)  # compiles
    for sample in samples:
        size = (sample.image.shape[0], sample.image.shape[1])
        with whole:
            with encoder:
                embedding = _encode(model, sample)
            with decoder:
                proposals = propose_masks(model, embedding, points_per_side=points_per_side, precision=precision)
            with thinning:
                found = proposals.distinct()
            with enlarging:
                found.rles(*size)
        ours.merge_state(proposal_recall(found, sample))
    grid = f"{points_per_side} x {points_per_side} points x 10 granularities"
    print(f"whole image, {grid}: {_per_image(whole, len(samples))}; AR1000 {_recall(ours)}")
    print("  " + ", ".join(f"{name} {clock.processor / len(samples):.2f} s" for name, clock in parts.items()))
    if with_generator:
        _generator(model, samples, points_per_side, whole)


def _generator(model: UnSAM, samples: list[EvalSample], points_per_side: int, ours: _Clock) -> None:
    """Time ten runs of SAM-2's generator, without its cuts by score and by stability, which few masks of nano survive.

    Recall is that of the 1,000 masks of the ten runs with the highest predicted IoU: as they come, and thinned across
    the runs as ours are. The runs at granularities have our `two_way.py` under them; ten runs on stock SAM-2, one mask
    a point, show what its own decoder costs.
    """
    clock, stock, as_they_come, thinned = _Clock(), _Clock(), AverageRecall(), AverageRecall()
    options = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "output_mode": "coco_rle"}
    options |= {"points_per_side": points_per_side, "points_per_batch": 32}  # 64, its default, is slower on a CPU
    for sample in samples:
        records = []
        with clock:
            for g in SWEEP:
                records += mask_generator(model, g, **options).generate(sample.image)
        with stock:
            for _ in SWEEP:
                mask_generator(model, None, multimask_output=False, **options).generate(sample.image)
        records.sort(key=lambda record: -record["predicted_iou"])
        masks = decode_masks([record["segmentation"]["counts"] for record in records], *sample.image.shape[:2])
        scores = torch.tensor([record["predicted_iou"] for record in records])
        ranked = rank_distinct(torch.from_numpy(masks), scores)
        ways = (as_they_come, torch.arange(len(records)), scores), (thinned, ranked.best, ranked.ranks)
        for metric, *way in ways:
            chosen, ranks = (each[:1000].tolist() for each in way)
            metric.update(sample.masks, [records[n]["segmentation"] for n in chosen], ranks)
    print(
        f"whole image, ten runs of SAM2AutomaticMaskGenerator, thresholds 0: {_per_image(clock, len(samples))}; "
        f"AR1000 {_recall(as_they_come)}, thinned as ours {_recall(thinned)}\n"
        f"  {clock.processor / ours.processor:.2f} times our time; on stock SAM-2: {_per_image(stock, len(samples))}, "
        f"{stock.processor / ours.processor:.2f} times our time"
    )


def _per_image(clock: _Clock, num_images: int) -> str:
    return f"{clock.wall / num_images:.2f} s an image by the clock, {clock.processor / num_images:.2f} CPU-seconds"


def _recall(metric: AverageRecall) -> str:
    return f"{100 * computed(metric, [])['AR@1000']:.1f} %"


if __name__ == "__main__":
    with exit_with_one_line():
        main()
