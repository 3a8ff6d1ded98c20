"""Images of one colour, shapes that depend on a name, and pairs of both."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image


def shape_of(name, k=68):
    """(k, 2) float32 points that depend on the name, with three decimals as in the official files."""
    rng = np.random.default_rng(int(hashlib.sha1(name.encode()).hexdigest()[:8], 16))
    return rng.uniform(5, 55, (k, 2)).round(3).astype(np.float32)


def write_image(path, colour=(200, 100, 50), size=(48, 60)):
    """An image file of one RGB colour; size is (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], colour).save(path)


def write_noise(path, size=(48, 60)):
    """An image file of several kilobytes, so that there is something to cut off."""
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).save(path)


def cut_short(path, part=0.5):
    """Leave the first part of a file, as a copy that was broken off does."""
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])


def write_pair(folder, stem, suffix=".jpg", k=68):
    """An image and its .pts file, both official in form; the points are ``shape_of(stem, k)``."""
    write_image(folder / f"{stem}{suffix}")
    lines = "".join(f"{x:.6f} {y:.6f}\n" for x, y in shape_of(stem, k).astype(np.float64) + 1)
    (folder / f"{stem}.pts").write_text(f"version: 1\nn_points:  {k}\n{{\n{lines}}}\n")
