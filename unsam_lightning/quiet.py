"""Advice of the libraries that does not apply here, silenced, each for the reason beside it.

Next in the tour: `report/bootstrap.py`.
"""

from __future__ import annotations

import logging
import os
import warnings


def quieten() -> None:
    """Silence advice that does not apply here, each line for the reason given."""
    # Our sampler takes its position from the batch progress that Lightning saves; Lightning cannot know that.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
    # One machine with few cores is a supported case, and so is a benchmark on one process.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
    # Our label batches are shared out among the workers, see ShardImages.
    warnings.filterwarnings("ignore", message=".*`IterableDataset` has `__len__` defined.*")
    # Labels that are all there leave nothing to make; training and benchmarks without images are refused by ourselves.
    warnings.filterwarnings("ignore", message=".*Total length of `DataLoader` across ranks is zero. Please.*")
    # The frozen SAM-2 stays in eval mode on purpose.
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning 2.6 with torch 2.12
    # What writes a run's checkpoints, `Checkpoints`, is not needed to judge one.
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint.*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda line: "Tip:" not in line.msg)
    # Lightning 2.6 calls jsonargparse functions that will go in jsonargparse 5; our bound is below 5.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    warnings.filterwarnings("ignore", message=".*predict returned None.*")  # the labeler writes its results itself
