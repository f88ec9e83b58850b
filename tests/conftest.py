"""Shared fixtures: the reference data, and one thread, because two were slower on a busy machine."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with golden values and real annotated images beside the project."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared (golden values and real images), which is not beside this checkout")
    return SHARED
