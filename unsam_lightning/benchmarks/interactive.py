"""Interactive benchmark of one image: simulated click sessions of its objects, models and granularities at once.

The image is encoded once; sessions advance in lock-step, so every decoder call is full. The same code judges the
untouched SAM-2 and the tuned model. Next in the tour: `benchmarks/whole_image.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unsam_lightning.automatic import choose_granularity
from unsam_lightning.benchmarks.budget import prompts_within
from unsam_lightning.benchmarks.full_size import full_size_mask
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.benchmarks.sessions import METHODS, Method, Session, SessionResult, finished, start_sessions
from unsam_lightning.decoder import Embedding
from unsam_lightning.granularity import SWEEP
from unsam_lightning.metrics.boundary import boundary_iou
from unsam_lightning.metrics.clicker import Click
from unsam_lightning.model import UnSAM
from unsam_lightning.one_image import (
    Precision,
    PromptDecoder,
    in_threads,
    passes_at_once,
    prompt_decoder,
    several_at_once,
)
from unsam_lightning.pairs import encode_masks

#: Called once for each object, after its first click: position of the object, the sweep's masks (G, H, W), the click.
SweepListener: TypeAlias = Callable[[int, npt.NDArray[np.bool_], Click], None]


@torch.no_grad()
def evaluate_interactive(
    model: UnSAM,
    embedding: Embedding,
    sample: EvalSample,
    *,
    methods: Sequence[Method] = METHODS,
    fixed: Sequence[float] = SWEEP,
    max_clicks: int = 20,
    target: float = 0.9,
    memory_gb: float = 2.0,
    precision: Precision = "float32",
    on_sweep: SweepListener | None = None,
) -> list[SessionResult]:
    """Return the sessions of every object of an image with every method.

    Args:
        model: Judged with and without its adapter.
        embedding: Of this image alone.
        sample: The image's ground truth.
        methods: Which judges.
        fixed: Granularities whose sessions run to their own end, so that they can be reported for themselves.
        max_clicks: Length of a session that does not reach the target.
        target: IoU that ends a session.
        memory_gb: Half of it for the sessions that go on at a time, half for a pass of the decoder.
        precision: Of the decoder, see `one_image.prompt_decoder`.
        on_sweep: Gets what one click gives at all granularities; only with the method "tuned".

    Source: RITM's click rule (`metrics/clicker.py`) and GraCo's sweep over granularities; a mask is where the
        probability is above 0.5, as in GraCo.
    Differs: the previous mask is a prompt of every click after the first, as in SAM; no flip or zoom-in at test time.
        The automatic choice of a granularity is made after the first click, without ground truth, and kept.
    """
    height, width = sample.image.shape[:2]
    sessions_per_object = sum(len(SWEEP) if method == "tuned" else 1 for method in methods)
    object_bytes = sessions_per_object * (height * width + 4 * model.mask_size**2)
    at_a_time = max(1, int(memory_gb * 1e9 / 2 / max(1, object_bytes)))
    decode = prompt_decoder(model, embedding, precision)
    prompts = prompts_within(memory_gb / 2 / passes_at_once(decode), model, height, width)
    results: list[SessionResult] = []
    with in_threads() as map_sessions, several_at_once(decode) as map_parts:
        for first in range(0, len(sample.masks), at_a_time):
            objects = range(first, min(first + at_a_time, len(sample.masks)))
            sessions = [session for n in objects for session in start_sessions(sample.masks[n], n, methods)]
            for click in range(max_clicks):
                running = [session for session in sessions if not session.is_over]
                for method in methods:
                    chosen = [session for session in running if session.method == method]
                    parts = [chosen[start : start + prompts] for start in range(0, len(chosen), prompts)]
                    list(map_parts(partial(_advance, model, decode, method, map_sessions), parts))
                if click == 0:
                    _choose(model, decode, [s for s in sessions if s.method == "tuned"], prompts)
                    _note_first_click(sessions, sample.masks, on_sweep)
                for session in running:
                    session.is_over = session.ious[-1] >= target or click + 1 == max_clicks
                _end_hopeless(sessions, fixed)
                going_on = [session for session in running if not session.is_over]
                list(map_sessions(lambda session: session.clicker.next_click(session.prediction), going_on))
            results += [finished(session, sample.ids) for session in sessions]
    return results


def _sweeps(sessions: Sequence[Session]) -> dict[int, list[Session]]:
    """Return the sessions of each object, by its position."""
    sweeps: dict[int, list[Session]] = {}
    for session in sessions:
        sweeps.setdefault(session.mask, []).append(session)
    return sweeps


def _choose(model: UnSAM, decode: PromptDecoder, sessions: Sequence[Session], prompts: int) -> None:
    """Let the model choose a granularity for each object after its first click, without ground truth."""
    sweeps = list(_sweeps(sessions).values())
    for start in range(0, len(sweeps), prompts):
        part = sweeps[start : start + prompts]
        stock = decode(*_clicks(model, [sweep[0] for sweep in part]), None, None, True)
        logits = torch.stack([torch.cat([s.logits for s in sweep if s.logits is not None]) for sweep in part])
        for sweep, best in zip(part, choose_granularity(logits, stock.masks, stock.iou).tolist(), strict=True):
            sweep[best].is_automatic = True


def _note_first_click(
    sessions: Sequence[Session], truths: npt.NDArray[np.int8], on_sweep: SweepListener | None
) -> None:
    """Keep what to show and to tell of the first click, and hand the sweeps on."""
    if on_sweep is not None:
        for number, sweep in _sweeps([session for session in sessions if session.method == "tuned"]).items():
            on_sweep(number, np.stack([session.prediction for session in sweep]), sweep[0].clicker.clicks[0])
    for session in sessions:
        if session.is_automatic or session.method == "base_single":
            session.first_mask = encode_masks(session.prediction[None])[0]
        truth = truths[session.mask]
        session.first_boundary_iou = boundary_iou(session.prediction & (truth >= 0), truth == 1)


def _end_hopeless(sessions: Sequence[Session], fixed: Sequence[float]) -> None:
    """End the sweep's sessions of objects that some granularity has finished; fixed and chosen ones go on."""
    finished = {s.mask for s in sessions if s.method == "tuned" and s.is_over}
    for session in sessions:
        is_reported = session.granularity in fixed or session.is_automatic
        if session.method == "tuned" and session.mask in finished and not is_reported:
            session.is_over = True


def _advance(
    model: UnSAM, decode: PromptDecoder, method: Method, map_sessions: Callable[..., Any], sessions: Sequence[Session]
) -> None:
    """Predict one more mask for sessions that have equally many clicks, and note its IoU."""
    size = sessions[0].prediction.shape
    previous = [s.logits for s in sessions if s.logits is not None]
    decoded = decode(
        *_clicks(model, sessions),
        torch.tensor([s.granularity for s in sessions], device=model.device) if method == "tuned" else None,
        torch.stack(previous) if previous else None,
        method == "base_best_of_three" or (method == "base_own_choice" and not previous),
    )
    scores = decoded.iou.float().cpu().numpy()  # (P, M)

    def judge(session: Session, logits: Tensor, small: Tensor, score: npt.NDArray[np.float32]) -> None:
        tried = [int(np.argmax(score))] if method == "base_own_choice" else range(len(score))
        masks = [full_size_mask(small[number], (size[0], size[1])) for number in tried]
        ious = [session.clicker.iou(mask) for mask in masks]
        place = int(np.argmax(ious))
        # A copy of the logits: a view would keep the whole pass in memory.
        session.prediction, session.logits = masks[place], logits[tried[place]][None].float().clone()
        session.ious.append(ious[place])

    list(map_sessions(judge, sessions, decoded.masks, decoded.masks.float().cpu(), scores))


def _clicks(model: UnSAM, sessions: Sequence[Session]) -> tuple[Tensor, Tensor]:
    """Return points (P, K, 2) in pixels of the model's frame and labels (P, K) of sessions with K clicks each."""
    height, width = sessions[0].prediction.shape
    clicks = np.array([[(x, y, positive) for y, x, positive in s.clicker.clicks] for s in sessions], dtype=np.float32)
    scale = np.array([model.image_size / width, model.image_size / height], dtype=np.float32)
    points = torch.from_numpy(clicks[..., :2] * scale).to(model.device)
    return points, torch.from_numpy(clicks[..., 2]).to(model.device)
