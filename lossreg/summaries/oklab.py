"""Oklab: colours in which a step looks as large as another one of that length. Between sRGB and it, and palettes."""

from __future__ import annotations

import numpy as np

__all__ = ["from_oklab", "palette", "to_oklab"]

XYZ_OF_RGB = np.array([
    [0.412453, 0.357580, 0.180423],
    [0.212671, 0.715160, 0.072169],
    [0.019334, 0.119193, 0.950227],
])  # fmt: skip
"""Of linear sRGB with the white of D65, with the digits of scikit-image."""

LMS_OF_XYZ = np.array([
    [0.8189330101, 0.3618667424, -0.1288597137],
    [0.0329845436, 0.9293118715, 0.0361456387],
    [0.0482003018, 0.2643662691, 0.6338517070],
])  # fmt: skip
LAB_OF_LMS = np.array([
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
])  # fmt: skip
"""Ottosson (2020), https://bottosson.github.io/posts/oklab/. Between the two, cube roots are taken."""


def to_oklab(rgb: np.ndarray) -> np.ndarray:
    """Colours (..., 3) of sRGB in [0, 1] as those of Oklab."""
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    lab: np.ndarray = np.cbrt(linear @ (LMS_OF_XYZ @ XYZ_OF_RGB).T) @ LAB_OF_LMS.T
    return lab


def from_oklab(lab: np.ndarray) -> np.ndarray:
    """Colours (..., 3) of Oklab as those of sRGB, clipped to [0, 1]."""
    cubes = (lab @ np.linalg.inv(LAB_OF_LMS).T) ** 3
    linear = cubes @ np.linalg.inv(LMS_OF_XYZ @ XYZ_OF_RGB).T
    # Below the linear part, powers of negative numbers would be NaN.
    curved = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    rgb: np.ndarray = np.clip(np.where(linear > 0.0031308, curved, 12.92 * linear), 0.0, 1.0)
    return rgb


def palette(numbers: np.ndarray, count: int, chroma: float = 0.3, lightness: float = 0.8) -> np.ndarray:
    """Colours (n, 3) of sRGB with some of `count` evenly spaced hues of Oklab, numbered from blue on."""
    hues = 2.0 * np.pi * (0.75 + numbers / count)
    lab = np.stack([np.full(len(numbers), lightness), chroma * np.cos(hues), chroma * np.sin(hues)], axis=1)
    return from_oklab(lab)
