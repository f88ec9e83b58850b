"""What a forest of masks must be, and a drawn image whose regions are known."""

import numpy as np
import torch

from unsam_lightning.granularity import granularity_scores
from unsam_lightning.pseudo_labels.hierarchy import Forest
from unsam_lightning.pseudo_labels.overlap import connected_components, intersections, ious


def drawn(lifted):
    """The forest of a label with its masks drawn."""
    return Forest(lifted.masks(), lifted.granularity, lifted.instance, lifted.parent, lifted.stage)


def check_forest(forest, min_area_px=1):
    areas = forest.masks.sum(axis=(1, 2))
    assert (areas >= min_area_px).all()
    for index, parent in enumerate(forest.parent):
        assert len(connected_components(forest.masks[index])) == 1
        if parent < 0:
            assert forest.granularity[index] == 1.0
            assert forest.stage[index] == "divide"
        else:
            assert parent < index  # hence no cycle
            assert forest.instance[parent] == forest.instance[index]
            assert not (forest.masks[index] & ~forest.masks[parent]).any()
            assert areas[index] < areas[parent]
    trees = forest.instance.max(initial=-1) + 1
    assert (forest.parent < 0).sum() == trees
    assert (np.diff(forest.instance) >= 0).all()
    for tree in range(trees):
        members = forest.instance == tree
        assert np.array_equal(forest.granularity[members], granularity_scores(areas[members]))
        overlap = ious(intersections(forest.masks[members]))
        assert (overlap[~np.eye(len(overlap), dtype=bool)] <= 0.8).all()


def drawn_scene():
    """A red disc with a green eye on blue, and a small yellow box: image (128, 128, 3) and its label map."""
    y, x = np.mgrid[:128, :128]
    labels = np.zeros((128, 128), int)
    labels[(y - 60) ** 2 + (x - 50) ** 2 < 36**2] = 1
    labels[(y - 50) ** 2 + (x - 45) ** 2 < 12**2] = 2
    labels[100:120, 96:120] = 3
    colors = np.array([[20, 30, 160], [200, 40, 30], [30, 180, 40], [220, 220, 40]], np.uint8)
    return colors[labels], labels


def color_features(image, stride):
    means = image.reshape(128 // stride, stride, 128 // stride, stride, 3).mean(axis=(1, 3))
    return torch.from_numpy(means.astype(np.float32))
