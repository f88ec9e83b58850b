"""The teacher of the cross-view consistency: the running average of what trains, on the student's frozen SAM-2.

Source: Tarvainen and Valpola, Mean Teacher (arXiv 1703.01780): the average of the last weights is a better and steadier
judge than the weights of the moment, and the consistency's weight grows while it is not yet one.
Next in the tour: `objective.py`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

from unsam_lightning.errors import UserError
from unsam_lightning.model import UnSAM


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """How the consistency between two views is taught.

    Args:
        decay: Of the running average, for each optimizer step; 0: the student's own answer teaches, in the same pass.
        ramp_steps: Optimizer steps over which the weight of the consistency grows from 0 to its own.
    """

    decay: float = 0.99
    ramp_steps: int = 200

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1 or self.ramp_steps < 0:
            raise UserError(
                expected="a decay in [0, 1) and ramp_steps of at least 0",
                found=f"decay {self.decay:g}, ramp_steps {self.ramp_steps}",
                remedy="see --model.teaching.* in `fit --help`",
            )

    def ramp(self, step: int) -> float:
        """Return the share of the consistency's weight at an optimizer step."""
        return min(1.0, step / self.ramp_steps) if self.ramp_steps else 1.0


class Teacher:
    """An `UnSAM` whose adapter follows another's.

    Args:
        student: Followed; its frozen parameters are shared, not copied.
        decay: See `Teaching`; smaller in the first steps, so that the start is soon forgotten.

    Attributes:
        model: The teacher itself, in eval mode; needs no gradients.
    """

    def __init__(self, student: UnSAM, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._followed_at: int | None = None
        frozen: dict[int, Any] = {id(p): p for p in student.decoder.parameters() if not p.requires_grad}
        self.model = copy.copy(student)
        # A table of its own: the shallow copy still shares the student's.
        self.model._modules = dict(student._modules)
        self.model._modules["decoder"] = copy.deepcopy(student.decoder, frozen).requires_grad_(False)
        # The student forgets its dial's map when it trains; answers by the old one would teach it another dial.
        self.model.calibration = None
        self.model.eval()
        own = dict(self.model.decoder.named_parameters())
        self._pairs = {n: (own[n], p) for n, p in student.decoder.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Take the student's present weights into the average, once for each optimizer step.

        Args:
            step: Number of the optimizer step under way. All batches whose gradients gather in it get the same answers,
                and so does one that a resumed run begins anew.
        """
        if step == self._followed_at:
            return
        self.updates, self._followed_at = self.updates + 1, step
        decay = min(self.decay, self.updates / (self.updates + 9))
        for mine, theirs in self._pairs.values():
            mine.lerp_(theirs, 1 - decay)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold, in plain values and tensors."""
        averages = {name: mine.detach().clone() for name, (mine, _) in self._pairs.items()}
        return {"updates": self.updates, "followed_at": self._followed_at, "averages": averages}

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned; strictly."""
        if state["averages"].keys() != self._pairs.keys():
            raise UserError(
                expected="a checkpoint whose teacher has this adapter's shape",
                found="other names of numbers",
                remedy="resume with the adapter that the run began with",
            )
        # Checkpoints of older versions do not say at which step: they were written after it.
        self.updates, self._followed_at = int(state["updates"]), state.get("followed_at")
        for name, (mine, _) in self._pairs.items():
            mine.copy_(state["averages"][name])
