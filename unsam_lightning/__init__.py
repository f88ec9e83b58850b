"""Self-supervised training of promptable segmentation at any granularity.

Importing the package is quick on purpose: torch, lightning and sam2 are imported by the modules that use them.
Reading order: see "Reading tour" in the README.
"""

__version__ = "0.1.0"
