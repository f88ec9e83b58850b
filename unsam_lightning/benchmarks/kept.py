"""Results of images kept on disk while an evaluation goes on, so that a killed one goes on where it stopped.

A result is found again by all that it depends on: the model's weights, what is measured, the image and its masks.
Next in the tour: `benchmarks/objects.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unsam_lightning import __version__
from unsam_lightning.aside import write_text_aside
from unsam_lightning.benchmarks.evaluate import EvaluationConfig, ImageResult
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.benchmarks.sessions import SessionResult
from unsam_lightning.model import UnSAM


class KeptResults:
    """The images that one evaluation has finished, a JSON file each; ranks share the folder and write different files.

    Evaluations of one model on other data sets share it too: each removes its own files only.

    Args:
        folder: Of all that measure the same of the same model, see `fingerprint`; made at the first result.

    Attributes:
        names: Of the files that this rank has read or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: list[str] = []

    def measured(self, sample: EvalSample, dataset: str, index: int, measure: Callable[[], ImageResult]) -> ImageResult:
        """Return the kept result of an image, or measure it and keep that.

        Args:
            sample: The image and its masks, which are part of the name: a changed annotation is measured anew.
            dataset: Name of the data set.
            index: Position in it.
            measure: Called where nothing is kept.

        Raises:
            UserError: A result cannot be written.
        """
        path = self.folder / f"{_digest(dataset, index, sample)}.json"
        self.names.append(path.name)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # or just removed by the same test, run twice
            return from_json(path.read_text(encoding="utf-8"))
        result = measure()
        write_text_aside(path, json.dumps(asdict(result)))
        return result

    def forget(self, names: Iterable[str]) -> None:
        """Remove the files of an evaluation that is reported, and folders that are then empty; never fails.

        Args:
            names: The `names` of all its ranks.
        """
        for name in names:
            with contextlib.suppress(OSError):  # gone already, or not ours to remove: what counts is reported
                (self.folder / name).unlink()
        for folder in (self.folder, self.folder.parent):
            with contextlib.suppress(OSError):  # not empty: others go on in it; or nothing was ever kept
                folder.rmdir()


def from_json(text: str) -> ImageResult:
    """Return the result that `json.dumps(asdict(result))` wrote, equal to the last digit."""
    content = json.loads(text)
    sessions = [
        SessionResult(**{**session, "first_click": tuple(session["first_click"])}) for session in content["sessions"]
    ]
    remarks = [tuple(remark) for remark in content["remarks"]]
    return ImageResult(**{**content, "sessions": sessions, "remarks": remarks})


def fingerprint(model: UnSAM, config: EvaluationConfig, about: Any) -> str:
    """Return a name for an evaluation, 16 hex digits, of all that its results depend on but the images.

    Args:
        model: Its base's checksum, its trained weights and its dial's map count.
        config: What is measured.
        about: Anything else, such as the precision; by its `repr`.
    """
    # The fields too: code that keeps something else must not read what was kept before it.
    form = [field.name for kept in (ImageResult, SessionResult) for field in fields(kept)]
    settings = (__version__, form, model.base_name, model.base_sha256, model.calibration, config, about)
    digest = hashlib.sha256(repr(settings).encode())
    state = model.state_dict()
    for name in model.trained_names():
        weight = state[name].detach().to("cpu", torch.float32).numpy()
        digest.update(name.encode() + np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()[:16]


def _digest(dataset: str, index: int, sample: EvalSample) -> str:
    pixels = [values for values in (sample.image, sample.masks, sample.drawn_from) if values is not None]
    shapes = [values.shape for values in pixels]
    digest = hashlib.sha256(repr((dataset, index, sample.key, sample.ids, shapes, sample.remarks)).encode())
    for values in pixels:
        digest.update(np.ascontiguousarray(values).reshape(-1).data)  # in place: a large image's masks are a gigabyte
    return digest.hexdigest()[:32]
