"""Interactive segmentation of one image: clicks and granularities in, masks at the image's resolution out.

    predictor = Predictor(UnSAM.from_pretrained("runs/quickstart/.../last.ckpt"), image)
    masks, iou, logits = predictor.predict(clicks_xy=[[120, 80]], labels=[1], granularity=[0.1, 0.3, 0.6, 1.0])
    better = predictor.predict([[120, 80], [150, 90]], [1, 0], [0.1, 0.3, 0.6, 1.0], logits)    # one click more
    offered = predictor.offer(clicks_xy=[[120, 80]], labels=[1])         # the levels that the image has there
    offered.masks[offered.first_choice]

Next in the tour: `segment/stock.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from unsam_lightning.automatic import FINE_SWEEP, choose_granularity, stable_levels
from unsam_lightning.decoder import Decoded
from unsam_lightning.errors import UserError
from unsam_lightning.granularity import SWEEP, check_granularity
from unsam_lightning.model import UnSAM
from unsam_lightning.one_image import image_tensor
from unsam_lightning.sweep import decode_in_passes


class Prediction(NamedTuple):
    """The answers to some clicks at G granularities.

    Args:
        masks: bool (G, H, W).
        iou: Predicted IoU float32 (G,).
        logits: (G, h, w) at stride 4 of the model's input, on its device: what the next click corrects.
    """

    masks: npt.NDArray[np.bool_]
    iou: npt.NDArray[np.float32]
    logits: torch.Tensor


class Offered(NamedTuple):
    """The L distinct answers to some clicks, finest first.

    Args:
        masks: bool (L, H, W).
        granularity: L numbers of the sweep, one that stands for each level.
        iou: Predicted IoU float32 (L,).
        first_choice: Which to show first.
    """

    masks: npt.NDArray[np.bool_]
    granularity: list[float]
    iou: npt.NDArray[np.float32]
    first_choice: int


class Predictor:
    """Answers clicks on one image, which is encoded once.

    Args:
        model: In eval mode, on any device.
        image: uint8 RGB (H, W, 3).

    Raises:
        UserError: Not such an image.
    """

    def __init__(self, model: UnSAM, image: npt.NDArray[np.uint8]) -> None:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise UserError(
                expected="an RGB image, uint8 (H, W, 3)",
                found=f"{image.dtype} {image.shape}",
                remedy="convert it, e.g. by PIL's `convert('RGB')`",
            )
        self.model = model
        self.height, self.width = image.shape[:2]
        self.embedding = model.encode(image_tensor(image, model.device))

    @torch.no_grad()
    def predict(
        self,
        clicks_xy: npt.ArrayLike,
        labels: Sequence[int],
        granularity: float | Sequence[float] | None,
        logits: torch.Tensor | None = None,
    ) -> Prediction:
        """Return one mask for each granularity, all for the same clicks.

        Several clicks are given one after the other, each with the mask that the clicks before it gave, as in training
        and in the benchmarks. All at once they are worth less: six clicks on scenes, IoU 0.69 for 0.74 (nano, tuned).

        Args:
            clicks_xy: (K, 2) pixels of the image, x before y.
            labels: K labels: 1 inside, 0 outside.
            granularity: G >= 1 numbers in [0.1, 1], or one; None for stock SAM-2's single mask.
            logits: Those of the prediction for all clicks but the last, at the same granularities: then only the last
                click is new, which is one pass of the decoder in place of K.

        Returns:
            G masks; G = 1 for stock SAM-2.

        Raises:
            UserError: No click, a click outside the image, labels of another number or value, no granularity or one
                out of range, logits of another shape.
        """
        points, inside = self._prompt(clicks_xy, labels)
        wanted = None
        if granularity is not None:
            wanted = torch.as_tensor(granularity, dtype=torch.float32).reshape(-1)
            if not len(wanted):
                raise UserError(expected="at least one granularity", found="none", remedy="give e.g. [0.1, 0.5, 1.0]")
            check_granularity(wanted)
        decoded = self._click_in_turn(points, inside, wanted, logits)
        return Prediction(
            self._at_image_size(decoded.masks)[:, 0], decoded.iou[:, 0].float().cpu().numpy(), decoded.masks[:, 0]
        )

    @torch.no_grad()
    def offer(self, clicks_xy: npt.ArrayLike, labels: Sequence[int]) -> Offered:
        """Return the levels that the image offers at some clicks, without being told a granularity.

        The levels are the plateaus of the sweep, see `automatic.stable_levels`, and what `automatic.choose_granularity`
        chooses, which is the one to show first.

        Args:
            clicks_xy: As in `predict`.
            labels: As in `predict`.

        Returns:
            L >= 1 levels; a single empty mask where the sweep has nothing but empty ones.

        Raises:
            UserError: As `predict`.
        """
        points, inside = self._prompt(clicks_xy, labels)
        answers = self._click_in_turn(points, inside, torch.tensor(FINE_SWEEP))
        sweep, iou = answers.masks[:, 0], answers.iou[:, 0]  # (G, h, w), (G,)
        stock = self.model.decode(self.embedding, points, inside, multimask=True)
        # Among the granularities of the benchmarks, so that their automatic mode is what this shows first.
        step = FINE_SWEEP.index(SWEEP[1])
        chosen = step * int(choose_granularity(sweep[None, ::step], stock.masks, stock.iou)[0])
        levels = stable_levels(sweep, iou)
        # The choice stands for its level, or is one more.
        picks = sorted({chosen, *(level.best for level in levels if not level.first <= chosen <= level.last)})
        return Offered(
            self._at_image_size(sweep[None, picks])[0],
            [FINE_SWEEP[k] for k in picks],
            iou[picks].float().cpu().numpy(),
            picks.index(chosen),
        )

    def _click_in_turn(
        self,
        points: torch.Tensor,
        labels: torch.Tensor,
        granularity: torch.Tensor | None,
        logits: torch.Tensor | None = None,
    ) -> Decoded:
        """Return the answers (G, 1, h, w) to clicks (1, K, 2), given one by one, or the last alone after `logits`."""
        count = 1 if granularity is None else len(granularity)
        points, labels = points.expand(count, -1, -1), labels.expand(count, -1)
        size = self.model.mask_size
        if logits is not None and logits.shape != (count, size, size):
            raise UserError(
                expected=f"the logits of a prediction at {count} granularities, {(count, size, size)}",
                found=str(tuple(logits.shape)),
                remedy="pass on the `logits` of the prediction before, at the same granularities",
            )
        previous = None if logits is None else logits[:, None].to(self.model.device)
        first = 1 if previous is None else points.shape[1]
        for k in range(first, points.shape[1] + 1):
            answer = decode_in_passes(
                self.model, self.embedding, points[:, :k], labels[:, :k], granularity, masks=previous
            )
            previous = answer.masks
        return answer

    def _prompt(self, clicks_xy: npt.ArrayLike, labels: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return points (1, K, 2) in pixels of the model's frame and labels (1, K)."""
        clicks = np.asarray(clicks_xy, dtype=np.float32).reshape(-1, 2)
        outside = [tuple(click) for click in clicks.tolist() if not self._contains(click)]
        if outside or len(clicks) == 0 or len(labels) != len(clicks) or not set(labels) <= {0, 1}:
            raise UserError(
                expected=f"clicks inside the image of {self.width} x {self.height} px, each with a label 1 or 0",
                found=f"click {outside[0]}" if outside else f"{len(clicks)} clicks with labels {list(labels)}",
                remedy="give x from 0 to the width and y from 0 to the height, in pixels",
            )
        scale = torch.tensor([self.model.image_size / self.width, self.model.image_size / self.height])
        points = (torch.from_numpy(clicks) * scale).to(self.model.device)[None]
        return points, torch.tensor([list(labels)], device=self.model.device)

    def _at_image_size(self, masks: torch.Tensor) -> npt.NDArray[np.bool_]:
        large = torch.nn.functional.interpolate(masks.float(), (self.height, self.width), mode="bilinear")
        return np.asarray((large > 0).cpu().numpy())

    def _contains(self, click: Sequence[float]) -> bool:
        return bool(0 <= click[0] < self.width and 0 <= click[1] < self.height)
