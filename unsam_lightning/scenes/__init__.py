"""Procedural scenes with a known tree of parts: the embedded data set, with exact ground truth.

`make_scene(seed, size)` draws a picture and knows the visible pixels of every object, part and sub-part. With the masks
thrown away it is training data without labels; with them it is a benchmark. Files, in reading order: `textures.py`,
`palette.py`, `shapes.py`, `creatures.py`, `plants.py`, `artefacts.py`, `things.py`, `surroundings.py`, `painter.py`,
`camera.py`, `forest.py`, `scene.py`.
"""

from unsam_lightning.scenes.scene import FIRST_TEST_SEED, Scene, make_scene

__all__ = ["FIRST_TEST_SEED", "Scene", "make_scene"]
