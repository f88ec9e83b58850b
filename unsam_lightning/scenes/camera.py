"""The camera: from log radiance to a photograph with its exposure, lens, sensor and compression.

Next in the tour: `forest.py`.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from unsam_lightning.scenes.painter import add_lightness
from unsam_lightning.scenes.textures import DEVIATION, FIELD, MIDDLE, Floats, bank, sensor_noise


def light_field(rng: np.random.Generator, log_rgb: Floats) -> None:
    """Add light that varies over the scene, in place: a gradient, vignetting, dappled shade, a colour cast."""
    height, width = log_rgb.shape[:2]
    small_h, small_w = max(height // 8, 4), max(width // 8, 4)
    y, x = np.mgrid[-1 : 1 : small_h * 1j, -1 : 1 : small_w * 1j]
    gradient = rng.normal(0, 0.2, 2)
    field = gradient[0] * x + gradient[1] * y - abs(rng.normal(0, 0.2)) * (x * x + y * y)
    if rng.random() < 0.35:
        stretch = np.exp(rng.uniform(np.log(0.6), np.log(4.0)))
        to_texel = np.array([[stretch, 0, rng.random() * FIELD], [0, stretch, rng.random() * FIELD]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        noise = cv2.warpAffine(
            bank()["smooth"][0], to_texel, (small_w, small_h), flags=flags, borderMode=cv2.BORDER_WRAP
        )
        field = field + rng.uniform(0.2, 0.8) * np.tanh(2.0 * (noise[..., 0] - MIDDLE) / DEVIATION)
    full = cv2.resize(field.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    warm = rng.normal(0.04, 0.10)
    add_lightness(log_rgb, full)
    cv2.add(log_rgb, (warm, 0.02 * rng.normal(), -warm, 0.0), dst=log_rgb)


def defocus(rng: np.random.Generator, log_rgb: Floats, px_per_unit: float) -> None:
    """Blur what has been painted so far, in place: it lies behind the plane of focus."""
    sigma = float(np.exp(rng.uniform(np.log(0.6), np.log(3.5)))) * px_per_unit
    if sigma < 0.4:
        return
    if sigma < 2:
        cv2.GaussianBlur(log_rgb, (0, 0), sigma, dst=log_rgb)
        return
    side = 2 * int(sigma * 0.85) + 1  # two box filters: as wide as the Gaussian and faster
    cv2.blur(cv2.blur(log_rgb, (side, side)), (side, side), dst=log_rgb)


def develop(rng: np.random.Generator, log_rgb: Floats) -> npt.NDArray[np.uint8]:
    """Return the photograph, uint8 (H, W, 3): exposure, tone curve, lens blur, noise, JPEG.

    Args:
        rng: The scene's source of randomness.
        log_rgb: Log radiance, float32 (H, W, 3); not kept.
    """
    height, width = log_rgb.shape[:2]
    sample = log_rgb[:: max(height // 32, 1), :: max(width // 32, 1)]
    ordered = np.sort(sample, axis=None)  # many times faster than np.quantile
    middle, bright = float(ordered[ordered.size // 2]), float(ordered[int(0.97 * ordered.size)])
    contrast = rng.uniform(0.85, 1.2)
    # Aim at a typical median, but keep most highlights below white: photographers and their cameras do both.
    exposure = min(rng.normal(-1.5, 0.45) - middle * contrast, rng.uniform(-0.25, 0.3) - bright * contrast)
    picture = cv2.exp(cv2.addWeighted(log_rgb, contrast / 2.2, log_rgb, 0.0, exposure / 2.2))
    if rng.random() < 0.75:
        blur = 0.3 + abs(rng.normal(0.0, 0.25)) + (rng.uniform(0.3, 1.0) if rng.random() < 0.1 else 0.0)
        cv2.GaussianBlur(picture, (5, 5), blur, dst=picture)
    if rng.random() < 0.35:  # sharpening in the camera, with its halos
        cv2.addWeighted(picture, 1.5, cv2.blur(picture, (3, 3)), -0.5, 0.0, dst=picture)
    noise = float(np.exp(rng.normal(np.log(1.6), 0.7)))
    cv2.addWeighted(picture, 255.0, _noise(rng, height, width), noise, 0.0, dst=picture)
    pixels = cv2.add(picture, 0.0, dtype=cv2.CV_8U)  # rounds and saturates
    if rng.random() < 0.85:
        quality = int(rng.integers(40, 96))
        encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        pixels = cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return np.asarray(pixels)


def _noise(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Return a random window of the sensor noise, repeated as far as needed."""
    noise = sensor_noise()
    side = noise.shape[0]
    y, x = int(rng.integers(side // 2)), int(rng.integers(side // 2))
    below, beside = max(y + height - side, 0), max(x + width - side, 0)
    wide = cv2.copyMakeBorder(noise, 0, below, 0, beside, cv2.BORDER_WRAP) if below or beside else noise
    return np.asarray(wide[y : y + height, x : x + width])
