"""Families of creatures: animals, people, faces, each a random tree of parts.

Every function takes a generator and returns `Parts` in the object's frame (about [-1, 1], y down, standing on y = 1).
Next in the tour: `plants.py`.
"""

from __future__ import annotations

import numpy as np

from unsam_lightning.scenes import shapes
from unsam_lightning.scenes.shapes import Parts

#: Paint numbers: parts with the same number share a material.
_BODY, _HEAD, _DARK, _LIGHT, _EXTRA, _MARK = range(6)


def _eye(parts: Parts, x: float, y: float, radius: float, parent: int) -> None:
    """Add an eye, large ones with a pupil."""
    eye = parts.add(shapes.ellipse(x, y, radius, radius * 0.8), parent=parent, paint=_DARK)
    if radius > 0.05:
        parts.add(shapes.ellipse(x, y, radius * 0.5), parent=eye, paint=_LIGHT)


def _markings(rng: np.random.Generator, parts: Parts, parent: int, x: float, y: float, rx: float, ry: float) -> None:
    """Add a belly, a saddle, spots or bands that show only on the parent, or nothing."""
    choice = rng.random()
    if choice < 0.2:
        parts.add(shapes.blob(rng, x, y + 0.6 * ry, 0.8 * rx, 0.6 * ry), parent=parent, paint=_LIGHT, fuzzy=0.04)
    elif choice < 0.4:
        for _ in range(rng.integers(2, 6)):
            sx, sy = x + rng.uniform(-0.7, 0.7) * rx, y + rng.uniform(-0.7, 0.7) * ry
            size = rng.uniform(0.12, 0.35) * min(rx, ry)
            parts.add(shapes.blob(rng, sx, sy, size, size, 0.4, 24), parent=parent, paint=_MARK)
    elif choice < 0.55:
        for shift in np.linspace(-0.6, 0.6, int(rng.integers(2, 5))):
            wide = rng.uniform(0.1, 0.25) * rx
            lean = rng.uniform(-0.3, 0.3) * rx
            band = shapes.box(x + shift * rx - wide / 2, y - 1.3 * ry, x + shift * rx + wide / 2, y + 1.3 * ry, lean)
            parts.add(band, parent=parent, paint=_MARK)


def quadruped(rng: np.random.Generator) -> Parts:
    """Return a four-legged animal from the side: legs with feet, tail, body with markings, neck, head, ears, eye."""
    parts = Parts()
    body_y, rx, ry = rng.uniform(-0.15, 0.2), rng.uniform(0.5, 0.75), rng.uniform(0.2, 0.38)
    thick, fuzz = rng.uniform(0.06, 0.14), rng.choice((0.0, 0.05))
    stance = rng.uniform(-0.15, 0.15, 4)
    legs = [
        (side * (rx - 0.15) + shift, stance[k])
        for k, (side, shift) in enumerate(((-1, 0.14), (1, 0.1), (-1, 0), (1, 0)))
    ]

    def leg(k: int) -> None:
        x, step = legs[k]
        limb = parts.add(shapes.limb(x, body_y + 0.1, x + step, 0.95, thick * 1.3, thick * 0.7), fuzzy=fuzz)
        if rng.random() < 0.6:
            parts.add(
                shapes.ellipse(x + step + 0.04, 0.95, thick * 1.1, thick * 0.7), parent=limb, paint=_DARK, clipped=False
            )

    leg(0)
    leg(1)
    if rng.random() < 0.8:
        tail = shapes.curve(
            (-rx, body_y - 0.1), (-rx - 0.35, body_y + rng.uniform(-0.5, 0.1)), (-rx - 0.3, body_y + 0.4)
        )
        parts.add(shapes.stroke(tail, np.linspace(thick, thick * rng.uniform(0.3, 1.8), 12)), fuzzy=fuzz)
    body = parts.add(shapes.blob(rng, 0, body_y, rx, ry, 0.15), fuzzy=fuzz)
    _markings(rng, parts, body, 0, body_y, rx, ry)
    leg(2)
    leg(3)
    head_x, head_y, head = rx + rng.uniform(0.0, 0.3), body_y - rng.uniform(-0.1, 0.7), rng.uniform(0.15, 0.28)
    parts.add(shapes.limb(rx * 0.7, body_y - 0.05, head_x, head_y, ry * 0.8, head * 0.7), fuzzy=fuzz)
    for side in (-0.5, 0.4):
        size = head * rng.uniform(0.3, 0.6)
        ear = parts.add(
            shapes.leaf(head_x + side * head, head_y - head * 0.5, 2.2 * size, size, -1.6 + side), paint=_HEAD
        )
        if size > 0.1:
            parts.add(shapes.ellipse(head_x + side * head, head_y - head * 0.8, size * 0.3), parent=ear, paint=_LIGHT)
    skull = parts.add(shapes.blob(rng, head_x, head_y, head * 1.1, head, 0.1), paint=_HEAD, fuzzy=fuzz)
    muzzle = parts.add(
        shapes.limb(head_x + head * 0.5, head_y + 0.05, head_x + head * 1.4, head_y + 0.12, head * 0.55, head * 0.4),
        parent=skull, paint=rng.choice((_HEAD, _LIGHT, _DARK)), clipped=False,
    )  # fmt: skip
    parts.add(
        shapes.ellipse(head_x + head * 1.65, head_y + 0.08, head * 0.18), parent=muzzle, paint=_DARK, clipped=False
    )
    _eye(parts, head_x + head * 0.35, head_y - head * 0.25, head * 0.16, skull)
    return parts


def bird(rng: np.random.Generator) -> Parts:
    """Return a bird: legs, tail, body, wing with feathers, head with eye and beak."""
    parts = Parts()
    plump = rng.uniform(0.3, 0.5)
    tilt = rng.uniform(-0.5, 0.3)
    for x in (-0.08, 0.12):
        parts.add(shapes.limb(x, 0.4, x + rng.uniform(-0.1, 0.1), 1.0, 0.03, 0.025), paint=_DARK)
    parts.add(shapes.leaf(-0.35, 0.1, -0.75, 0.3, tilt * 0.5), paint=_MARK)
    body = parts.add(shapes.ellipse(0, 0.1, 0.6, plump, tilt), fuzzy=rng.choice((0.0, 0.04)))
    parts.add(shapes.blob(rng, 0.15, 0.1 + 0.6 * plump, 0.4, 0.5 * plump), parent=body, paint=_LIGHT)
    wing = parts.add(shapes.leaf(0.3, -0.02, -1.0, plump * 1.1, tilt - 0.15), paint=_EXTRA)
    for k in range(rng.integers(0, 4)):
        parts.add(
            shapes.leaf(0.0 - 0.12 * k, 0.06 * k, -0.6, 0.12, tilt - 0.2), parent=wing, paint=_MARK if k % 2 else _DARK
        )
    hx, hy, head = 0.5, -plump - rng.uniform(0.0, 0.25), rng.uniform(0.18, 0.28)
    parts.add(shapes.limb(0.35, 0, hx, hy, plump * 0.5, head * 0.8))
    skull = parts.add(shapes.ellipse(hx, hy, head), paint=rng.choice((_BODY, _HEAD)))
    parts.add(
        np.array(
            [[hx + head * 0.8, hy - 0.06], [hx + head * rng.uniform(1.5, 2.6), hy + 0.04], [hx + head * 0.8, hy + 0.08]]
        ),
        paint=_LIGHT,
    )
    _eye(parts, hx + head * 0.35, hy - head * 0.2, head * 0.2, skull)
    return parts


def fish(rng: np.random.Generator) -> Parts:
    """Return a fish: tail, fins, body with markings, gill, eye."""
    parts = Parts()
    high = rng.uniform(0.25, 0.5)
    parts.add(np.array([[-0.6, 0.0], [-1.0, -high], [-0.88, 0], [-1.0, high * rng.uniform(0.7, 1.1)]]), paint=_EXTRA)
    parts.add(np.array([[-0.2, -high * 0.8], [rng.uniform(-0.4, 0), -high * 1.7], [0.35, -high * 0.7]]), paint=_EXTRA)
    body = parts.add(shapes.leaf(-0.75, 0, 1.75, 2 * high, 0))
    _markings(rng, parts, body, 0, 0, 0.7, high)
    face = parts.add(shapes.box(0.5, -1, 1.2, 1, lean=-0.1), parent=body, paint=_HEAD)
    _eye(parts, 0.66, -0.08, rng.uniform(0.05, 0.09), face)
    parts.add(shapes.leaf(0.25, 0.1, -0.35, 0.2, rng.uniform(-0.5, 0.2)), parent=body, paint=_EXTRA)
    return parts


def butterfly(rng: np.random.Generator) -> Parts:
    """Return an insect with two pairs of patterned wings and a segmented body."""
    parts = Parts()
    right = [shapes.blob(rng, 0.5, -0.35, 0.5, 0.42, 0.3), shapes.blob(rng, 0.42, 0.4, 0.4, 0.36, 0.3)]
    marks = [
        [
            (rng.uniform(0.3, 0.7), y + rng.uniform(-0.2, 0.2), rng.uniform(0.05, 0.16))
            for _ in range(rng.integers(1, 4))
        ]
        for y in (-0.35, 0.4)
    ]
    for mirror in ((1, 1), (-1, 1)):
        for k in (1, 0):
            wing = parts.add(right[k] * mirror, paint=_BODY if k == 0 else _EXTRA)
            for x, y, size in marks[k]:
                spot = parts.add(shapes.ellipse(x * mirror[0], y, size), parent=wing, paint=_MARK)
                parts.add(shapes.ellipse(x * mirror[0], y, size * 0.5), parent=spot, paint=_LIGHT)
    trunk = parts.add(shapes.limb(0, -0.4, 0, 0.6, 0.08, 0.05), paint=_DARK)
    parts.add(shapes.ellipse(0, -0.45, 0.1), parent=trunk, paint=_HEAD, clipped=False)
    return parts


def person(rng: np.random.Generator) -> Parts:
    """Return a standing figure: legs with shoes, torso with clothing, arms with hands, head with hair and face."""
    parts = Parts()
    hip, shoulder, wide = rng.uniform(0.05, 0.2), -0.5, rng.uniform(0.2, 0.3)
    for side in (-1, 1):
        foot = side * rng.uniform(0.08, 0.3)
        leg = parts.add(shapes.limb(side * 0.1, hip, foot, 0.92, 0.13, 0.08), paint=_EXTRA)
        parts.add(
            shapes.limb(foot, 0.95, foot + rng.uniform(-0.1, 0.14), 0.97, 0.07, 0.06),
            parent=leg,
            paint=_DARK,
            clipped=False,
        )

    def arm(side: int) -> None:
        elbow = side * (wide + rng.uniform(0.05, 0.3)), rng.uniform(-0.35, 0.0)
        hand = elbow[0] + rng.uniform(-0.3, 0.3), elbow[1] + rng.uniform(-0.35, 0.35)
        upper = parts.add(shapes.limb(side * wide * 0.9, shoulder + 0.06, *elbow, 0.085, 0.065))
        parts.add(
            shapes.limb(*elbow, *hand, 0.065, 0.045), parent=upper, paint=rng.choice((_BODY, _HEAD)), clipped=False
        )
        parts.add(shapes.ellipse(*hand, 0.06), parent=upper, paint=_HEAD, clipped=False)

    arm(-1)
    hem = hip + (0.4 if rng.random() < 0.3 else 0.08)
    torso_outline = np.array(
        [
            [-wide, shoulder],
            [wide, shoulder],
            [wide * 0.8, hip - 0.1],
            [wide * rng.uniform(0.8, 1.6), hem],
            [-wide * rng.uniform(0.8, 1.4), hem],
            [-wide * 0.8, hip - 0.1],
        ]
    )
    torso = parts.add(torso_outline)
    if rng.random() < 0.5:
        parts.add(shapes.box(-1, hip - 0.05, 1, hip + 0.02), parent=torso, paint=_DARK)
    if rng.random() < 0.5:
        parts.add(shapes.box(-0.06, -0.6, 0.06, hip), parent=torso, paint=_LIGHT)
    arm(1)
    head, hx = rng.uniform(0.13, 0.17), rng.uniform(-0.05, 0.05)
    parts.add(shapes.limb(0, shoulder, hx, -0.7, 0.07, 0.06), paint=_HEAD)
    skull = parts.add(shapes.ellipse(hx, -0.78, head, head * 1.25), paint=_HEAD)
    parts.add(
        shapes.blob(rng, hx, -0.9, head * 1.15, head * 0.9, 0.2), parent=skull, paint=_MARK, clipped=False, fuzzy=0.03
    )
    for x in (-0.4, 0.4):
        _eye(parts, hx + x * head, -0.76, 0.022, skull)
    return parts


def face(rng: np.random.Generator) -> Parts:
    """Return a head from the front, of a person or an animal: ears, hair, eyes, nose, mouth."""
    parts = Parts()
    rx, ry = rng.uniform(0.55, 0.75), rng.uniform(0.7, 0.9)
    fuzz = rng.choice((0.0, 0.0, 0.06))
    parts.add(shapes.blob(rng, 0, -0.15, rx * 1.2, ry * 1.05, 0.15), paint=_MARK, fuzzy=0.08)
    for side in (-1, 1):
        ear = parts.add(shapes.ellipse(side * rx, rng.uniform(-0.6, 0), 0.22, 0.28), paint=_HEAD, fuzzy=fuzz)
        parts.add(shapes.ellipse(side * rx, -0.2, 0.12, 0.16), parent=ear, paint=_LIGHT)
    skull = parts.add(shapes.blob(rng, 0, 0, rx, ry, 0.08), paint=_HEAD, fuzzy=fuzz)
    size = rng.uniform(0.08, 0.16)
    for side in (-1, 1):
        white = parts.add(shapes.ellipse(side * 0.28, -0.12, size * 1.3, size * 0.8), parent=skull, paint=_LIGHT)
        _eye(parts, side * 0.28, -0.12, size * 0.6, white)
        if rng.random() < 0.7:
            parts.add(
                shapes.stroke(shapes.curve((side * 0.1, -0.3), (side * 0.3, -0.42), (side * 0.5, -0.28)), 0.06),
                parent=skull,
                paint=_MARK,
            )
    nose = parts.add(shapes.blob(rng, 0, 0.18, 0.14, 0.2, 0.15, 24), parent=skull, paint=rng.choice((_HEAD, _DARK)))
    parts.add(shapes.ellipse(0.05, 0.3, 0.035, 0.025), parent=nose, paint=_DARK)
    parts.add(shapes.leaf(-0.25, 0.5, 0.5, rng.uniform(0.06, 0.2), 0), parent=skull, paint=_EXTRA)
    return parts


#: All families of this file.
CREATURES = (quadruped, bird, fish, butterfly, person, face)
