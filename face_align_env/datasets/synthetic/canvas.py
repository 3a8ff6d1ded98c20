"""What the skin of a synthetic head is painted on and with: the unrolled surface, masks, noise and colours.

Colours are RGB, 0 to 255.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from face_align_env.datasets.synthetic.head import EAR_THETA, THETA_MAX, Array, Head, half_width

Image = npt.NDArray[Any]  # uint8; not said, as OpenCV's types do not say which type comes back
Color = npt.NDArray[Any]

TEXTURE_U, TEXTURE_V = 304, 376  # px; about one and a half per pixel of the picture in the middle of the face
SHIFT = 4  # fractional bits of OpenCV's polygon coordinates
UNIT = 1 << SHIFT
_LARGE = 6000  # px, windows in which only the edge of an opaque shape is blended
_BYTES = np.arange(256) / 255.0
_THETA_DENSE = 1.4  # rad per unit of u in the middle; below THETA_MAX there is more room for the face
_V_DENSE = 0.5  # 0: rows evenly spaced, towards 1: denser at the crown and the chin, where they shrink
_BANK = 768  # px, side of the noise pictures that all faces cut pieces of


# --- colours and noise ---


@cache
def noise_banks() -> tuple[Image, Image, Image]:
    """Grain, soft blots and hair-like streaks, each (_BANK, _BANK) with mean 128; the same for everyone."""
    rng = np.random.default_rng(20190531)
    grain = rng.standard_normal((_BANK, _BANK)).astype(np.float32)
    blots = np.zeros_like(grain)
    for cells in (6, 16, 48):
        coarse = rng.standard_normal((cells, cells)).astype(np.float32)
        blots += cv2.resize(coarse, (_BANK, _BANK), interpolation=cv2.INTER_CUBIC)
    streaks = cv2.GaussianBlur(rng.standard_normal((_BANK, _BANK)).astype(np.float32), (0, 0), 1.0, sigmaY=22.0)

    def picture(field: Array, spread: float) -> Image:
        noise: Image = np.clip(128.0 + spread * field / field.std(), 0, 255).astype(np.uint8)
        return noise

    return picture(grain, 40.0), picture(blots, 45.0), picture(streaks, 50.0)


def cut(rng: np.random.Generator, bank: Image, width: int, height: int) -> Image:
    """A random piece of a noise picture."""
    x, y = int(rng.integers(_BANK - width + 1)), int(rng.integers(_BANK - height + 1))
    return bank[y : y + height, x : x + width]


def colored(noise: Image, color: Color, low: float, high: float) -> Image:
    """A noise picture in shades of a colour, from ``low`` to ``high`` times as bright."""
    ramp: Image = np.zeros((256, 4), dtype=np.uint8)
    ramp[:, :3] = np.clip((low + (high - low) * _BYTES)[:, None] * color, 0, 255)
    # One look-up of four bytes at once is several times faster than one of three.
    found = cv2.LUT(noise, ramp.view(np.int32).reshape(1, 256))
    return cv2.cvtColor(found.view(np.uint8).reshape(*noise.shape, 4), cv2.COLOR_RGBA2RGB)


def some_color(rng: np.random.Generator) -> Color:
    """(3,) any colour, more often a dull one."""
    color = rng.uniform(10, 245, 3)
    shade: Color = color.mean() + (color - color.mean()) * rng.random()
    return shade


def plain(color: Color, height: int, width: int) -> Image:
    """A (height, width, 3) picture of one colour."""
    pixel: Image = np.array([[[min(max(int(c), 0), 255) for c in color.tolist()]]], dtype=np.uint8)
    return cv2.copyMakeBorder(pixel, 0, height - 1, 0, width - 1, cv2.BORDER_REPLICATE)


def fixed(points: Array) -> list[npt.NDArray[np.int32]]:
    """OpenCV's form of one curve (N, 2), or several (M, N, 2)."""
    return _curves(np.rint(points * UNIT).astype(np.int32))


def _curves(points: npt.NDArray[np.int32]) -> list[npt.NDArray[np.int32]]:
    return [points] if points.ndim == 2 else list(points)


def mask_of(polygons: Array, height: int, width: int) -> Image:
    """(height, width) 255 inside one polygon (N, 2) px, or several (M, N, 2)."""
    mask = np.zeros((height, width), dtype=np.uint8)
    return cv2.fillPoly(mask, fixed(polygons), 255, cv2.LINE_AA, SHIFT)


def mix(window: Image, paint: Color | Image, mask: Image, alpha: float = 1.0) -> None:
    """Blend a colour or a picture into part of a picture where the mask is set."""
    x, y, w, h = cv2.boundingRect(mask)
    if w == 0:
        return
    part = window[y : y + h, x : x + w]
    paint = plain(paint, h, w) if paint.ndim == 1 else paint[y : y + h, x : x + w]
    mask = mask[y : y + h, x : x + w]
    if alpha < 1.0 or w * h < _LARGE:
        weight = mask * np.float32(alpha / 255.0)
        part[:] = cv2.blendLinear(paint, part, weight, 1.0 - weight)
        return
    # Most of a large shape is opaque: copy it, and blend its edge alone.
    edge = cv2.inRange(mask, 1, 254)
    if cv2.countNonZero(edge) == 0:
        cv2.copyTo(paint, mask, part)
        return
    points = cv2.findNonZero(edge).reshape(-1, 2)  # OpenCV 4 has an axis more
    at = points[:, 1], points[:, 0]
    share = mask[at][None] * np.float32(1.0 / 255.0)
    blended = cv2.blendLinear(paint[at][None], part[at][None], share, 1.0 - share)
    cv2.copyTo(paint, mask, part)
    part[at] = blended[0]


# --- the surface's coordinates: u and v, 0 to 1, around and along the head ---


def u_to_theta(u: Array) -> Array:
    """The angle around the head; u has more room for the face than for the back."""
    s = 2.0 * u - 1.0
    return _THETA_DENSE * s + (THETA_MAX - _THETA_DENSE) * s**3


def _height_of_row(v: Array) -> Array:
    """How far down from the crown, 0, to the chin, 1."""
    return v - _V_DENSE * np.sin(2.0 * np.pi * v) / (2.0 * np.pi)


def v_to_y(head: Head, v: Array) -> Array:
    """The height on the head, crown to chin."""
    return head.crown + (head.chin - head.crown) * _height_of_row(v)


_TABLE = np.linspace(0.0, 1.0, 257)
_THETA_TABLE = u_to_theta(_TABLE)
_STEPS = 4097  # of the tables that curves are looked up in: a tenth of a texture pixel, or finer
_COLUMN_OF_SINE = np.interp(np.arcsin(np.linspace(-1.0, 1.0, 2 * _STEPS - 1)), _THETA_TABLE, _TABLE * (TEXTURE_U - 1))
COLUMN_THETA = u_to_theta(np.linspace(0.0, 1.0, TEXTURE_U))
ROW_V = np.linspace(0.0, 1.0, TEXTURE_V)
_DOWN_TABLE = _height_of_row(_TABLE)
_ROW_OF_DOWN = np.interp(np.linspace(0.0, 1.0, _STEPS), _DOWN_TABLE, _TABLE * (TEXTURE_V - 1))
# Where between the entries of the table of 257 the many steps lie, all heads alike.
_STEP_AT = np.minimum((_ROW_OF_DOWN * (256 / (TEXTURE_V - 1))).astype(np.intp), 255)
_STEP_PART = _ROW_OF_DOWN * (256 / (TEXTURE_V - 1)) - _STEP_AT
_FIXED_COLUMN = np.rint(_COLUMN_OF_SINE * UNIT).astype(np.int32)
_FIXED_ROW = np.rint(_ROW_OF_DOWN * UNIT).astype(np.int32)
EAR_OUT = float(np.interp(EAR_THETA, _THETA_TABLE, _TABLE * (TEXTURE_U - 1))) - 0.5 * (TEXTURE_U - 1)


class Canvas:
    """The skin's picture, (TEXTURE_V, TEXTURE_U, 3); shapes are given in face-plane coordinates."""

    def __init__(self, head: Head, color: Color) -> None:
        self.head = head
        self.pixels = plain(color, TEXTURE_V, TEXTURE_U)
        # A table by evenly spaced heights, to look up without a search.
        self._per_height = (_STEPS - 1) / (head.chin - head.crown)
        one_by_width = (_STEPS - 1) / np.maximum(half_width(head, v_to_y(head, _TABLE)), 1e-3)
        slope = one_by_width[1:] - one_by_width[:-1]
        self._one_by_width = one_by_width.take(_STEP_AT) + slope.take(_STEP_AT) * _STEP_PART

    def _steps(self, curves: Array) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Where in the tables of columns and of rows to look the (..., 2) face-plane coordinates up."""
        step = ((curves[..., 1] - self.head.crown) * self._per_height + 0.5).astype(np.intp)
        sine = curves[..., 0] * self._one_by_width.take(step, mode="clip") + (_STEPS - 0.5)
        return sine.astype(np.intp), step

    def locate(self, curves: Array) -> Array:
        """(..., 2) texture pixels of (..., 2) face-plane coordinates."""
        sine, step = self._steps(curves)
        at = np.empty(curves.shape)
        at[..., 0] = _COLUMN_OF_SINE.take(sine, mode="clip")
        at[..., 1] = _ROW_OF_DOWN.take(step, mode="clip")
        return at

    def place(self, curves: Array) -> npt.NDArray[np.int32]:
        """As :meth:`locate`, in OpenCV's units of 1 / 16 px."""
        sine, step = self._steps(curves)
        at = np.empty(curves.shape, dtype=np.int32)
        at[..., 0] = _FIXED_COLUMN.take(sine, mode="clip")
        at[..., 1] = _FIXED_ROW.take(step, mode="clip")
        return at

    def fill(self, curves: Array, color: Color, alpha: float = 1.0, blur: float = 0.0) -> None:
        """Paint the inside of one closed curve (N, 2), or several (M, N, 2).

        :param blur: softness of the edge, texture pixels
        """
        at = self.place(curves)
        window = self.window(at, 2.0 + 2.0 * blur)
        mask = np.zeros(window.shape[:2], dtype=np.uint8)
        cv2.fillPoly(mask, _curves(at), 255, cv2.LINE_AA, SHIFT)
        mix(window, color, _soften(mask, blur), alpha)

    def line(self, curves: Array, color: Color, width: int, alpha: float = 1.0, blur: float = 0.0) -> None:
        """Paint along one open curve (N, 2), or several (M, N, 2); ``width`` in texture pixels."""
        at = self.place(curves)
        window = self.window(at, 2.0 + width + 2.0 * blur)
        mask = np.zeros(window.shape[:2], dtype=np.uint8)
        cv2.polylines(mask, _curves(at), False, 255, width, cv2.LINE_AA, SHIFT)
        mix(window, color, _soften(mask, blur), alpha)

    def window(self, at: npt.NDArray[np.int32], margin: float) -> Image:
        """The part of the texture around some (..., 2) points of :meth:`place`, which are moved to its corner."""
        x, y, w, h = cv2.boundingRect(at.reshape(-1, 2))
        wide = int(margin * UNIT)
        x0, y0 = max(x - wide, 0) >> SHIFT, max(y - wide, 0) >> SHIFT
        x1, y1 = (x + w + wide >> SHIFT) + 1, (y + h + wide >> SHIFT) + 1
        at -= (x0 << SHIFT, y0 << SHIFT)
        return self.pixels[y0:y1, x0:x1]


def _soften(mask: Image, blur: float) -> Image:
    if blur <= 0:
        return mask
    size = (2 * round(1.5 * blur) + 1,) * 2
    return cv2.blur(mask, size) if blur < 2 else cv2.stackBlur(mask, size)


@cache
def unit_circle(n: int) -> Array:
    """(n, 2) points around a circle."""
    angle = np.arange(n) * (2.0 * np.pi / n)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def ellipse(center: Array, rx: float, ry: float, n: int = 20) -> Array:
    """(..., n, 2) around the (..., 2) centers."""
    outline: Array = np.asarray(center)[..., None, :] + unit_circle(n) * np.array([rx, ry])
    return outline
