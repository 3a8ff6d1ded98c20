"""What a synthetic head looks like: hair, glasses and occluders, skin, light, and the picture of it all.

The picture is made without a renderer: see :func:`rasterize`. Colours are RGB, 0 to 255.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from face_align_env.datasets._head import (
    IMAGE_SIZE,
    THETA_MAX,
    Array,
    Features,
    Head,
    View,
    between,
    half_width,
    surface_grid,
    surface_z,
)

Image = npt.NDArray[np.uint8]
Color = npt.NDArray[np.floating]

GRID_U, GRID_V = 144, 152  # vertices around and along the head
TEXTURE_U, TEXTURE_V = 448, 576  # px; about two per pixel of the picture in the middle of the face
_SHIFT = 4  # fractional bits of OpenCV's polygon coordinates
_THETA_DENSE = 1.4  # rad per unit of u in the middle; below THETA_MAX there is more room for the face
_V_DENSE = 0.5  # 0: rows evenly spaced, towards 1: denser at the crown and the chin, where they shrink
_BANK = 768  # px, side of the noise pictures that all faces cut pieces of

SKIN = np.array(
    [
        [255, 224, 204], [244, 205, 181], [236, 190, 160], [225, 172, 138], [208, 150, 113],
        [184, 125, 88], [154, 99, 66], [122, 76, 50], [92, 57, 39], [64, 41, 30],
    ],
    dtype=np.float64,
)  # fmt: skip
HAIR = np.array(
    [[22, 18, 17], [36, 27, 22], [60, 40, 27], [92, 62, 38], [134, 96, 56], [186, 148, 92], [150, 70, 34],
     [165, 162, 158], [215, 212, 206]],
    dtype=np.float64,
)  # fmt: skip
IRIS = np.array([[62, 38, 22], [92, 60, 32], [120, 100, 54], [84, 112, 88], [88, 122, 158], [128, 140, 148]])


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

    def picture(field: npt.NDArray[np.float32], spread: float) -> Image:
        return np.clip(128.0 + spread * field / field.std(), 0, 255).astype(np.uint8)

    return picture(grain, 40.0), picture(blots, 45.0), picture(streaks, 50.0)


def cut(rng: np.random.Generator, bank: Image, width: int, height: int) -> Image:
    """A random piece of a noise picture."""
    x, y = int(rng.integers(_BANK - width + 1)), int(rng.integers(_BANK - height + 1))
    return bank[y : y + height, x : x + width]


# --- what is worn: it decides which landmarks are in view ---


@dataclass(frozen=True)
class Wear:
    """Hair or a head-covering, glasses, and what is before the face.

    :param hair_theta: (N,) angles from the face's middle, and ``hair_y`` the height down to which hair grows there
    :param puff: thickness of the hair, half face-widths
    :param fall: y down to which long hair falls behind the head; 0: it does not
    :param cloth: the covering is cloth (a cap, a scarf) and not hair
    :param glasses: half width, half height and squareness of the lenses; None: no glasses
    :param dark: opacity of the lenses
    :param occluders: polygons before the face, (N, 2) pixels
    :param occluder_kind: "hand", "box", "mask" or "strand"; "" without
    """

    hair_theta: Array
    hair_y: Array
    puff: float
    fall: float
    cloth: bool
    glasses: tuple[float, float, float] | None
    dark: float
    occluders: tuple[Array, ...]
    occluder_kind: str


def sample_wear(rng: np.random.Generator, head: Head, view: View, landmarks: Array) -> Wear:
    """What a head wears; ``landmarks`` are the (68, 2) pixels that an occluder is placed by."""
    style = float(rng.random())
    front, temple, side, over_ear, back = between(rng, -0.9, -0.62), between(rng, 0.6, 0.95), 0.0, -0.17, 0.7
    puff, fall, cloth, sideburn = between(rng, 0.05, 0.16), 0.0, False, between(rng, 1.12, 1.3)
    side = between(rng, -0.15, 0.3)
    if style < 0.08:  # bald
        front, side, over_ear, back, puff = -9.0, -9.0, -9.0, -9.0, 0.0
    elif style < 0.17:  # receding
        front, temple, puff = between(rng, -1.35, -1.0), between(rng, 0.8, 1.2), 0.03
        sideburn = max(sideburn, temple + 0.05)
    elif style < 0.28:  # cropped
        puff = 0.025
    elif style < 0.55:  # short
        puff = between(rng, 0.08, 0.22)
    elif style < 0.66:  # with a fringe
        front, temple, puff = between(rng, -0.5, -0.22), between(rng, 0.9, 1.1), between(rng, 0.08, 0.18)
    elif style < 0.72:  # round and full
        puff = between(rng, 0.3, 0.6)
        over_ear, side = between(rng, -0.2, 0.5), between(rng, -0.2, 0.3)
    elif style < 0.91:  # long
        side = over_ear = back = head.chin + 0.1
        sideburn, fall = between(rng, 1.02, 1.42), between(rng, 1.2, 3.6)
        temple = min(temple, sideburn - 0.15)
        puff = between(rng, 0.08, 0.2)
        if rng.random() < 0.3:
            front = between(rng, -0.5, -0.25)
    elif style < 0.96:  # a cap
        front, temple, side, over_ear, back = between(rng, -0.75, -0.5), 1.0, -0.35, -0.2, 0.3
        puff, cloth = between(rng, 0.06, 0.14), True
    else:  # a headscarf
        front, temple, sideburn = between(rng, -0.85, -0.6), 0.9, between(rng, 1.1, 1.3)
        side = over_ear = back = head.chin + 0.1
        fall, puff, cloth = 3.6, between(rng, 0.06, 0.12), True
    peak = between(rng, -0.08, 0.12)
    hair_theta = np.array([0.0, 0.5 * temple, temple, sideburn, 1.46, 1.56, 1.88, 2.0, THETA_MAX])
    hair_y = np.array([front + peak, front, front, side, side, over_ear, over_ear, back, back])

    glasses, dark = None, 0.0
    if rng.random() < 0.2:
        glasses = (between(rng, 0.24, 0.3), between(rng, 0.15, 0.25), between(rng, 2.0, 5.0))
        dark = between(rng, 0.75, 0.97) if rng.random() < 0.25 else between(rng, 0.0, 0.15)
    kind, occluders = "", ()
    if rng.random() < 0.16:
        kind = ("hand", "box", "mask", "strand")[int(rng.integers(4))]
        occluders = _occluders(rng, kind, landmarks)
    return Wear(hair_theta, hair_y, puff, fall, cloth, glasses, dark, occluders, kind)


def hair_line(wear: Wear, theta: Array) -> Array:
    """The height down to which hair grows, at angles around the head."""
    return np.interp(np.abs(theta), wear.hair_theta, wear.hair_y)


def _capsule(a: Array, b: Array, radius: float) -> Array:
    """(18, 2) outline of a finger from ``a`` to ``b``."""
    angle = np.arctan2(b[1] - a[1], b[0] - a[0])
    half = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 9)
    turn = np.concatenate([angle + half, angle + np.pi + half])
    ends = np.concatenate([np.repeat(b[None], 9, axis=0), np.repeat(a[None], 9, axis=0)])
    return ends + radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)


def _occluders(rng: np.random.Generator, kind: str, landmarks: Array) -> tuple[Array, ...]:
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    side = float((high - low).max())
    middle = landmarks[[0, 16, 8]].mean(axis=0)
    if kind == "mask":  # a medical mask or a scarf: over the nose, around the jaw
        top = landmarks[[14, 29, 2]]
        jaw = middle + 1.07 * (landmarks[2:15] - middle)
        return (np.concatenate([jaw, top]),)
    angle = between(rng, 0.0, 2.0 * np.pi)
    out = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-out[1], out[0]])
    if kind == "box":  # a phone, a book, a card
        center = 0.5 * (low + high) + side * between(rng, 0.35, 0.6) * out
        long, short = side * between(rng, 0.25, 0.5) * out, side * between(rng, 0.12, 0.3) * across
        return (np.stack([center + long + short, center + long - short, center - long - short, center - long + short]),)
    if kind == "strand":  # hair in the face, a cable, a twig
        start = 0.5 * (low + high) + 0.3 * side * out - side * across
        t = np.linspace(0.0, 1.0, 12)[:, None]
        bend = side * between(rng, -0.25, 0.25) * np.sin(np.pi * t) * out
        path = start + 2.0 * side * t * across + bend
        half = 0.5 * side * between(rng, 0.02, 0.06) * out
        return (np.concatenate([path + half, (path - half)[::-1]]),)
    # A hand: a palm beside the face and four fingers that reach into it.
    palm = 0.5 * (low + high) + side * between(rng, 0.55, 0.75) * out
    width, reach = side * between(rng, 0.075, 0.1), side * between(rng, 0.35, 0.55)
    shapes = [_capsule(palm - 1.6 * width * across, palm + 1.6 * width * across, 2.0 * width)]
    shapes.append(_capsule(palm, palm + side * out, 2.2 * width))
    for finger, length in zip((-1.5, -0.5, 0.5, 1.5), (0.85, 1.0, 0.95, 0.75), strict=True):
        root = palm + 2.0 * finger * width * across
        spread = 0.12 * finger * across
        shapes.append(_capsule(root, root - reach * length * (out + spread), width))
    return tuple(shapes)


def lens_outlines(head: Head, view: View, wear: Wear) -> list[Array]:
    """The two lenses' outlines, (24, 2) pixels each; none without glasses."""
    if wear.glasses is None:
        return []
    half_x, half_y, power = wear.glasses
    angle = np.linspace(0.0, 2.0 * np.pi, 25)[:-1]
    c, s = np.cos(angle), np.sin(angle)
    radius = (np.abs(c) ** power + np.abs(s) ** power) ** (-1.0 / power)
    outlines = []
    for sign in (-1.0, 1.0):
        x = sign * (head.eye_x + 0.015) + half_x * radius * c
        y = 0.02 + half_y * radius * s
        outlines.append(view.project(np.stack([x, y, glasses_depth(head, x)], axis=1)))
    return outlines


def glasses_depth(head: Head, x: Array) -> Array:
    """z of the glasses' plane, which bends around the face."""
    root = head.front + 0.25 * head.nose_height + 0.02
    return root - 0.28 * np.asarray(x) ** 2


def inside(points: Array, polygon: Array) -> npt.NDArray[np.bool_]:
    """(N,) whether each of the (N, 2) points is inside the polygon (even-odd rule)."""
    x, y = points[:, :1], points[:, 1:]
    ax, ay = polygon[:, 0], polygon[:, 1]
    bx, by = np.roll(ax, -1), np.roll(ay, -1)
    crosses = (ay > y) != (by > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = ax + (y - ay) * (bx - ax) / (by - ay)
    return ((crosses & (x < at)).sum(axis=1) % 2).astype(bool)


def covered(head: Head, view: View, wear: Wear, points: Array, pixels: Array) -> npt.NDArray[np.bool_]:
    """(N,) whether hair, dark glasses or an occluder hides the (N, 3) points at (N, 2) ``pixels``."""
    sine = points[:, 0] / np.maximum(half_width(head, points[:, 1]), 1e-3)
    hidden = points[:, 1] < hair_line(wear, np.arcsin(np.clip(sine, -1.0, 1.0)))
    polygons = list(wear.occluders) + (lens_outlines(head, view, wear) if wear.dark > 0.5 else [])
    for polygon in polygons:
        hidden |= inside(pixels, polygon)
    return hidden


# --- the surface's coordinates (u, v), 0 to 1 around and along the head ---


def _u_to_theta(u: Array) -> Array:
    s = 2.0 * u - 1.0
    return _THETA_DENSE * s + (THETA_MAX - _THETA_DENSE) * s**3


def _v_to_y(head: Head, v: Array) -> Array:
    return head.crown + (head.chin - head.crown) * (v - _V_DENSE * np.sin(2.0 * np.pi * v) / (2.0 * np.pi))


_U_TABLE = np.linspace(0.0, 1.0, 257)
_THETA_TABLE = _u_to_theta(_U_TABLE)


# --- texture ---


class Canvas:
    """The skin's picture, unrolled: (TEXTURE_V, TEXTURE_U, 3); shapes are drawn by face-plane coordinates."""

    def __init__(self, head: Head, color: Color) -> None:
        self.head = head
        self.pixels = np.empty((TEXTURE_V, TEXTURE_U, 3), dtype=np.uint8)
        self.pixels[:] = color.astype(np.uint8)
        self._y_table = _v_to_y(head, _U_TABLE)

    def locate(self, curve: Array) -> Array:
        """(N, 2) texture pixels of (N, 2) face-plane coordinates."""
        sine = curve[:, 0] / np.maximum(half_width(self.head, curve[:, 1]), 1e-3)
        u = np.interp(np.arcsin(np.clip(sine, -1.0, 1.0)), _THETA_TABLE, _U_TABLE)
        v = np.interp(curve[:, 1], self._y_table, _U_TABLE)
        return np.stack([u * (TEXTURE_U - 1), v * (TEXTURE_V - 1)], axis=1)

    def fill(self, curve: Array, color: Color, alpha: float = 1.0, blur: float = 0.0) -> None:
        """Paint the inside of a closed curve; ``blur`` in texture pixels softens its edge."""
        self.fill_at(self.locate(curve), color, alpha, blur)

    def fill_at(self, at: Array, color: Color, alpha: float = 1.0, blur: float = 0.0) -> None:
        """:meth:`fill` by texture pixels."""
        window, origin = self._window(at, 2.0 + 2.5 * blur)
        if window.size == 0:
            return
        mask = np.zeros(window.shape[:2], dtype=np.uint8)
        cv2.fillPoly(mask, [_fixed(at - origin)], 255, cv2.LINE_AA, _SHIFT)
        if blur:
            cv2.GaussianBlur(mask, (0, 0), blur, dst=mask)
        _mix(window, color, mask, alpha)

    def line(self, curve: Array, color: Color, width: float, alpha: float = 1.0, blur: float = 0.0) -> None:
        """Paint along an open curve; ``width`` in texture pixels."""
        at = self.locate(curve)
        window, origin = self._window(at, 2.0 + width + 2.5 * blur)
        if window.size == 0:
            return
        mask = np.zeros(window.shape[:2], dtype=np.uint8)
        cv2.polylines(mask, [_fixed(at - origin)], False, 255, max(round(width), 1), cv2.LINE_AA, _SHIFT)
        if blur:
            cv2.GaussianBlur(mask, (0, 0), blur, dst=mask)
        _mix(window, color, mask, alpha)

    def _window(self, at: Array, margin: float) -> tuple[Image, Array]:
        low = np.clip(np.floor(at.min(axis=0) - margin), 0, [TEXTURE_U, TEXTURE_V]).astype(int)
        high = np.clip(np.ceil(at.max(axis=0) + margin), 0, [TEXTURE_U, TEXTURE_V]).astype(int)
        return self.pixels[low[1] : high[1], low[0] : high[0]], low


def _fixed(points: Array) -> npt.NDArray[np.int32]:
    return np.round(points * (1 << _SHIFT)).astype(np.int32)


def _mix(window: Image, color: Color, mask: Image, alpha: float) -> None:
    """Blend a colour into part of a picture where the mask is set."""
    weight = mask.astype(np.float32)[..., None] * np.float32(alpha / 255.0)
    window[:] = window + (np.asarray(color, dtype=np.float32) - window) * weight


def paint_skin(rng: np.random.Generator, head: Head, parts: Features, wear: Wear) -> tuple[Image, Color, Color]:
    """The texture of a head, its skin's colour and its hair's colour."""
    tone = between(rng, 0.0, len(SKIN) - 1.001)
    low = int(tone)
    skin = SKIN[low] + (tone - low) * (SKIN[low + 1] - SKIN[low])
    skin = np.clip(skin * (1.0 + 0.05 * rng.standard_normal(3)), 20, 255)
    # Fair hair goes with fair skin.
    hair = HAIR[int(rng.integers(len(HAIR)))] if tone < 4.0 else HAIR[int(rng.integers(3))]
    if rng.random() < 0.08:
        hair = HAIR[7 + int(rng.integers(2))]
    if rng.random() < 0.04:
        hair = rng.uniform(30, 220, 3)
    hair = np.clip(hair * between(rng, 0.8, 1.2), 8, 235)
    age = float(rng.random()) ** 2
    canvas = Canvas(head, skin)
    _paint_marks(rng, canvas, skin, age)
    if rng.random() < 0.33:
        _paint_beard(rng, canvas, parts, skin, hair)
    _paint_folds(canvas, parts, skin, age)
    _paint_nose(canvas, parts, skin)
    made_up = rng.random() < 0.3
    _paint_mouth(rng, canvas, parts, skin, bool(made_up))
    for side in (0, 1):
        _paint_eye_socket(rng, canvas, parts, side, skin, bool(made_up))
    iris = IRIS[int(rng.integers(len(IRIS) if tone < 4.0 else 2))]
    for side in (0, 1):
        _paint_eye(rng, canvas, parts, side, skin, iris, bool(made_up))
    brow = np.clip(hair * 0.8, 5, 200) if hair.max() < 200 or rng.random() < 0.5 else np.array([95.0, 75.0, 55.0])
    _paint_brows(rng, canvas, parts, skin, brow)
    if wear.puff > 0:
        _paint_hair(rng, canvas, wear, hair)
    return canvas.pixels, skin, hair


def _paint_marks(rng: np.random.Generator, canvas: Canvas, skin: Color, age: float) -> None:
    red = np.clip(skin * np.array([1.0, 0.82, 0.8]), 0, 255)
    blush = between(rng, 0.05, 0.4)
    for sign in (-1.0, 1.0):
        center = np.array([sign * 0.52, 0.42])
        canvas.fill(center + _circle(0.2), red, blush, 11.0)
    canvas.fill(np.array([0.0, canvas.head.nose_tip_y]) + _circle(0.12), red, blush, 7.0)
    dots = int(rng.integers(0, 4)) + (int(rng.integers(20, 60)) if rng.random() < 0.1 else 0)
    at = canvas.locate(np.stack([rng.uniform(-0.7, 0.7, dots), rng.uniform(-0.5, 1.3, dots)], axis=1))
    dark = (skin * 0.68).tolist()
    for x, y in at:
        cv2.circle(canvas.pixels, (int(x), int(y)), int(rng.integers(1, 3)), dark, -1, cv2.LINE_AA)
    for k in range(round(3 * age)):
        y = -0.55 - 0.13 * k
        x = np.linspace(-0.35, 0.35, 9)
        canvas.line(np.stack([x, y + 0.02 * np.cos(7 * x + k)], axis=1), skin * 0.6, 2.0, 0.5 * age, 1.2)


def _circle(radius: float, n: int = 20) -> Array:
    angle = np.linspace(0.0, 2.0 * np.pi, n + 1)[:-1]
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _paint_folds(canvas: Canvas, parts: Features, skin: Color, age: float) -> None:
    head = canvas.head
    strength = min(0.12 + 0.35 * age + 0.25 * max(head.smile, 0.0), 0.6)
    for sign, wing, corner in ((-1.0, parts.nose[4], parts.lip_top[0]), (1.0, parts.nose[8], parts.lip_top[-1])):
        top = wing + np.array([sign * 0.06, -0.05])
        end = corner + np.array([sign * 0.1, -0.02])
        bow = 0.5 * (top + end) + np.array([sign * 0.06, 0.0])
        t = np.linspace(0.0, 1.0, 8)[:, None]
        curve = (1 - t) ** 2 * top + 2 * t * (1 - t) * bow + t**2 * end
        canvas.line(curve, skin * 0.5, 2.0, strength, 1.6)
    under = parts.lip_bottom[3:10] + np.array([0.0, 0.06])
    canvas.line(under, skin * 0.5, 5.0, 0.35, 3.0)


def _paint_nose(canvas: Canvas, parts: Features, skin: Color) -> None:
    dark = skin * np.array([0.42, 0.34, 0.32])
    for sign, near, wing in ((-1.0, parts.nose[5], parts.nose[4]), (1.0, parts.nose[7], parts.nose[8])):
        nostril = near + np.array([sign * 0.012, -0.02]) + _circle(1.0) * np.array([0.062, 0.027])
        canvas.fill(nostril, dark, 0.85, 1.0)
        rim = np.array([[0.0, -0.13], [0.03, -0.08], [0.025, -0.01], [-0.01, 0.02]]) * np.array([sign, 1.0])
        canvas.line(wing + rim, skin * 0.5, 2.0, 0.55, 1.2)
    canvas.line(parts.nose[4:9] + np.array([0.0, 0.015]), skin * 0.45, 2.0, 0.5, 1.2)


def _paint_mouth(
    rng: np.random.Generator, canvas: Canvas, parts: Features, skin: Color, made_up: bool
) -> None:
    head = canvas.head
    lip = skin * np.array([0.88, 0.62, 0.62]) + np.array([8.0, 0.0, 4.0])
    if made_up:
        lip = 0.35 * lip + 0.65 * np.array([between(rng, 120, 220), between(rng, 20, 90), between(rng, 40, 110)])
    lip = np.clip(lip * between(rng, 0.9, 1.1), 0, 255)
    inner = np.concatenate([parts.mouth_top, parts.mouth_bottom[::-1]])
    canvas.fill(np.concatenate([parts.lip_top, parts.mouth_top[::-1]]), lip * 0.86, 0.9, 0.7)
    canvas.fill(np.concatenate([parts.mouth_bottom, parts.lip_bottom[::-1]]), lip, 0.9, 0.7)
    shine = 0.5 * (parts.mouth_bottom[3:8] + parts.lip_bottom[4:9])
    canvas.line(shine, np.minimum(lip * 1.3 + 20, 255), 4.0, 0.35, 2.0)
    if head.mouth_open > 0.012:
        cavity = np.array([70.0, 22.0, 22.0]) * between(rng, 0.4, 1.1)
        canvas.fill(inner, cavity)
        height = min(0.11, 0.85 * head.mouth_open)
        if rng.random() < 0.85:
            _paint_teeth(rng, canvas, parts, height)
        if head.mouth_open > 0.22:
            tongue = parts.mouth_bottom[3:8] + np.array([0.0, -0.02])
            raised = tongue[::-1] - np.array([0.0, 0.3 * head.mouth_open])
            canvas.fill(np.concatenate([tongue, raised]), np.array([165.0, 78.0, 78.0]), 0.8, 3.0)
    canvas.line(parts.mouth_top, skin * np.array([0.35, 0.22, 0.22]), 2.0, 0.8, 0.7)
    for end in (0, -1):
        canvas.fill(parts.lip_top[end] + _circle(0.025), skin * 0.35, 0.7, 1.5)


def _paint_teeth(rng: np.random.Generator, canvas: Canvas, parts: Features, height: float) -> None:
    white = np.array([238.0, 230.0, 214.0]) * between(rng, 0.72, 1.0)
    top = parts.mouth_top[1:10]
    reach = np.minimum(top[:, 1] + height, parts.mouth_bottom[1:10, 1] - 0.01)
    edge = np.stack([top[:, 0], np.maximum(reach, top[:, 1])], axis=1)
    canvas.fill(np.concatenate([top, edge[::-1]]), white, 1.0, 0.6)
    for q in np.linspace(-0.6, 0.6, 7):
        x = canvas.head.mouth_shift + canvas.head.mouth_half * q
        ends = np.array([[x, np.interp(x, top[:, 0], top[:, 1])], [x, np.interp(x, edge[:, 0], edge[:, 1])]])
        canvas.line(ends, white * 0.6, 1.0, 0.5)


def _paint_eye_socket(
    rng: np.random.Generator, canvas: Canvas, parts: Features, side: int, skin: Color, made_up: bool
) -> None:
    upper, lower = parts.upper_lids[side], parts.lower_lids[side]
    lid = upper - np.array([0.0, 0.05])
    shade = skin * np.array([0.66, 0.58, 0.56])
    if made_up:
        shade = 0.5 * shade + 0.5 * np.array([between(rng, 40, 160), between(rng, 30, 120), between(rng, 50, 170)])
    canvas.fill(np.concatenate([upper, lid[::-1]]), shade, 0.5, 4.0)
    canvas.line(upper[1:12] - np.array([0.0, 0.055]), skin * 0.45, 2.0, 0.45, 1.0)
    canvas.line(lower[2:11] + np.array([0.0, 0.05]), skin * 0.6, 4.0, between(rng, 0.1, 0.5), 2.5)


def _paint_eye(
    rng: np.random.Generator, canvas: Canvas, parts: Features, side: int, skin: Color, iris: Color, made_up: bool
) -> None:
    upper, lower = parts.upper_lids[side], parts.lower_lids[side]
    outline = np.concatenate([upper, lower[::-1]])
    lash = np.array([28.0, 20.0, 18.0]) if made_up else skin * np.array([0.3, 0.22, 0.2])
    if canvas.head.eye_open[side] > 0.33:
        at = canvas.locate(outline)
        window, origin = canvas._window(at, 2.0)
        eye = np.empty_like(window)
        eye[:] = (228, 222, 216)
        center = parts.pupils[side]
        radius = 0.095 * canvas.head.eye_half / 0.195
        for size, color in ((1.0, iris * 0.45), (0.86, iris * 1.1), (0.42, np.array([8.0, 6.0, 6.0]))):
            ring = _fixed(canvas.locate(center + _circle(size * radius)) - origin)
            cv2.fillPoly(eye, [ring], color.tolist(), cv2.LINE_AA, _SHIFT)
        glint = center + np.array([0.3, -0.35]) * radius + _circle(0.2 * radius, 10)
        cv2.fillPoly(eye, [_fixed(canvas.locate(glint) - origin)], (250, 250, 250), cv2.LINE_AA, _SHIFT)
        # The upper lid's shadow on the eyeball.
        cv2.polylines(eye, [_fixed(canvas.locate(upper) - origin)], False, (120, 104, 98), 5, cv2.LINE_AA, _SHIFT)
        eye = cv2.GaussianBlur(eye, (3, 3), 0)
        mask = np.zeros(window.shape[:2], dtype=np.uint8)
        cv2.fillPoly(mask, [_fixed(at - origin)], 255, cv2.LINE_AA, _SHIFT)
        window[:] = window + (eye.astype(np.float32) - window) * (mask[..., None] / np.float32(255.0))
    canvas.line(upper, lash, 3.0 if made_up else 2.0, 0.9, 0.6)
    canvas.line(lower, skin * np.array([0.5, 0.36, 0.34]), 1.0, 0.7, 0.6)


def _paint_brows(rng: np.random.Generator, canvas: Canvas, parts: Features, skin: Color, color: Color) -> None:
    strength = between(rng, 0.45, 0.95)
    for side, sign in ((0, -1.0), (1, 1.0)):
        center, half = parts.brows[side], parts.brow_thickness[:, None] * np.array([0.0, 1.0])
        canvas.fill(np.concatenate([center - half, (center + half)[::-1]]), color, strength, 1.5)
        t = rng.random(26)
        at = np.stack([np.interp(t, np.linspace(0, 1, 9), center[:, k]) for k in (0, 1)], axis=1)
        thick = np.interp(t, np.linspace(0, 1, 9), parts.brow_thickness)
        root = at + np.stack([np.zeros(26), thick], axis=1) * rng.uniform(-0.9, 0.9, (26, 1))
        tip = root + np.array([sign * 0.035, -0.02])
        ends = np.stack([canvas.locate(root), canvas.locate(tip)], axis=1)
        mixed = color * strength + skin * (1.0 - strength)
        cv2.polylines(canvas.pixels, list(_fixed(ends)), False, (mixed * 0.75).tolist(), 1, cv2.LINE_AA, _SHIFT)


def _paint_beard(rng: np.random.Generator, canvas: Canvas, parts: Features, skin: Color, hair: Color) -> None:
    """Stubble, a moustache, a goatee or a full beard, as hairs on a toned skin."""
    head = canvas.head
    x = np.linspace(-1.0, 1.0, 15)
    nose, mouth, chin = head.nose_base_y, head.mouth_y, head.chin
    full = float(rng.random()) < 0.6
    shapes = []
    if full:
        cheek = mouth - 0.12 - between(rng, 0.0, 0.25) * np.abs(x) ** 2 + 0.1 * np.cos(3 * x)
        shapes.append(np.concatenate([np.stack([x * 0.97, cheek], axis=1), [[0.97, chin], [-0.97, chin]]]))
    elif rng.random() < 0.7:
        shapes.append(np.array([0.0, chin - 0.12]) + _circle(1.0) * np.array([between(rng, 0.15, 0.33), 0.3]))
    if full or rng.random() < 0.75:
        wide = head.mouth_half * between(rng, 0.9, 1.25)
        upper = nose + 0.05 + 0.12 * x**2
        shapes.append(np.concatenate([np.stack([wide * x, upper], axis=1), (parts.lip_top - [0, 0.01])[::-1]]))
    mask = np.zeros((TEXTURE_V, TEXTURE_U), dtype=np.uint8)
    for shape in shapes:
        if full:  # around the jaw, where the face plane ends
            at = canvas.locate(shape)
            at[:, 0] += np.sign(at[:, 0] - 0.5 * TEXTURE_U) * np.where(np.abs(shape[:, 0]) > 0.9, 40.0, 0.0)
        else:
            at = canvas.locate(shape)
        cv2.fillPoly(mask, [_fixed(at)], 255, cv2.LINE_AA, _SHIFT)
    top = TEXTURE_V // 2
    mask = cv2.GaussianBlur(mask[top:], (0, 0), 4.0)
    window = canvas.pixels[top:]
    density = between(rng, 0.25, 1.0)
    _mix(window, 0.5 * (hair * 0.8 + skin * 0.6), mask, 0.75 * density)
    grain = cv2.GaussianBlur(cut(rng, noise_banks()[0], TEXTURE_U, TEXTURE_V - top), (1, 5), 0)
    hairs = ((grain > 150 - 40 * density) & (mask > 90)).astype(np.uint8)
    cv2.copyTo(np.full_like(window, (hair * 0.85).astype(np.uint8)), hairs, window)


def _paint_hair(rng: np.random.Generator, canvas: Canvas, wear: Wear, hair: Color) -> None:
    columns = _u_to_theta(np.linspace(0.0, 1.0, TEXTURE_U))
    jag = 0.0 if wear.cloth else 0.05
    ragged = cv2.GaussianBlur(rng.standard_normal((1, TEXTURE_U)).astype(np.float32), (0, 0), 1.5)[0] * 2.0 * jag
    rows = _v_to_y(canvas.head, np.linspace(0.0, 1.0, TEXTURE_V))
    mask = (rows[:, None] < (hair_line(wear, columns) + ragged)[None]).astype(np.uint8)
    texture = hair_texture(rng, wear, hair, TEXTURE_U, TEXTURE_V)
    cv2.copyTo(texture, mask, canvas.pixels)


def hair_texture(rng: np.random.Generator, wear: Wear, hair: Color, width: int, height: int) -> Image:
    """(height, width, 3) hair that hangs down, or cloth."""
    grain, _, streaks = noise_banks()
    source = cut(rng, grain if wear.puff > 0.25 or wear.cloth else streaks, width, height)
    ramp = np.linspace(0.7, 1.3, 256) if wear.cloth else np.linspace(0.25, 1.75, 256)
    table = np.clip(ramp[:, None] * hair + (0.0 if wear.cloth else 6.0), 0, 255).astype(np.uint8)
    return cv2.applyColorMap(source, table.reshape(256, 1, 3))


# --- from the surface to pixels ---


@dataclass(frozen=True)
class Raster:
    """Which point of the surface each pixel of an upright window shows.

    :param u: (H, W) grid column, ``v``: (H, W) grid row
    :param coverage: (H, W) share of the pixel that the head covers
    :param origin: (2,) unrolled pixel of the window's corner
    """

    u: npt.NDArray[np.float32]
    v: npt.NDArray[np.float32]
    coverage: npt.NDArray[np.float32]
    origin: npt.NDArray[np.int64]


def _first_seen(coordinate: Array, at: Array) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Where a curve that starts at its near end is met, seen along lines.

    A curve on a turned head runs from its near silhouette to its far one; where it turns back (behind the
    nose), what is in view are the points that lie farther than all before them.

    :param coordinate: (R, N) position of each point of R curves across the lines of sight
    :param at: (Q,) the lines, ascending
    :return: (R, Q) fractional index of the point in view, and (R, Q) how far outside of the curve the line passes
    """
    rows, n = coordinate.shape
    index = np.arange(n)
    first = coordinate.argmin(axis=1)[:, None]
    low = np.take_along_axis(coordinate, first, axis=1)
    running = np.maximum.accumulate(np.where(index < first, low, coordinate), axis=1)
    last = running.argmax(axis=1)[:, None]
    high = running[:, -1:]
    # One call for all curves: each is moved to a range of its own.
    start = (float(running.max() - running.min()) + 10.0) * np.arange(rows)[:, None] - low
    wanted = np.clip(at[None], low, high)
    found = np.interp(
        (wanted + start).ravel(), (running + start).ravel(), np.minimum(index, last).ravel().astype(np.float64)
    )
    outside = np.maximum(low - at[None], at[None] - high)
    return found.reshape(wanted.shape).astype(np.float32), outside.astype(np.float32)


def rasterize(head: Head, view: View, flat: Array) -> Raster:
    """Find the visible point of the surface at each pixel.

    A yawed and pitched head is seen without a depth buffer: first every row of the grid is resolved along x
    (yaw keeps rows together), then every column of the result along y (pitch).

    :param flat: (2, GRID_V, GRID_U) unrolled pixels of the surface's vertices
    """
    center = view.roll.T @ (0.5 * (IMAGE_SIZE - 1) - view.shift)
    reach = 0.5 * IMAGE_SIZE * np.abs(view.roll).sum(axis=1) + 1.0
    low = np.floor(np.maximum(center - reach, flat.min(axis=(1, 2)) - 2)).astype(int)
    high = np.ceil(np.minimum(center + reach, flat.max(axis=(1, 2)) + 2)).astype(int)
    xs, ys = np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1)
    if head.yaw >= 0:  # the left of the picture is nearer
        u, beside = _first_seen(flat[0].astype(np.float64), xs.astype(np.float64))
    else:
        u, beside = _first_seen(-flat[0, :, ::-1].astype(np.float64), -xs[::-1].astype(np.float64))
        u, beside = GRID_U - 1 - u[:, ::-1], beside[:, ::-1]
    u, beside = np.ascontiguousarray(u), np.ascontiguousarray(beside)
    row = np.broadcast_to(np.arange(GRID_V, dtype=np.float32)[:, None], u.shape)
    height = cv2.remap(flat[1], u, np.ascontiguousarray(row), cv2.INTER_LINEAR).T.astype(np.float64)
    if head.pitch <= 0:  # looks down: the crown is nearer
        v, above = _first_seen(height, ys.astype(np.float64))
    else:
        v, above = _first_seen(-height[:, ::-1], -ys[::-1].astype(np.float64))
        v, above = GRID_V - 1 - v[:, ::-1], above[:, ::-1]
    v = np.ascontiguousarray(v.T)
    column = np.ascontiguousarray(np.broadcast_to(np.arange(len(xs), dtype=np.float32), v.shape))
    u = cv2.remap(u, column, v, cv2.INTER_LINEAR)
    beside = cv2.remap(beside, column, v, cv2.INTER_LINEAR)
    coverage = np.clip(0.5 - np.maximum(beside, above.T), 0.0, 1.0)
    return Raster(u, v, coverage.astype(np.float32), low)


@dataclass(frozen=True)
class Light:
    """Where light comes from.

    :param direction: (3,) unit vector in the camera's axes (x right, y down, z to the camera)
    :param color: (3,) of the direct light, 1 is white
    :param ambient: (3,) of the light from everywhere
    :param shine: strength of the highlights
    """

    direction: Array
    color: Array
    ambient: Array
    shine: float


def sample_light(rng: np.random.Generator) -> Light:
    """A lamp or the sun, and the light of the room or the sky."""
    side, up = between(rng, -1.3, 1.3), between(rng, -0.3, 1.0)
    direction = np.array([np.sin(side), -np.sin(up), 0.35 + abs(np.cos(side))])
    strength = between(rng, 0.25, 0.95)
    warm = 1.0 + np.array([0.06, 0.0, -0.1]) * between(rng, -1.0, 1.5)
    cool = 1.0 + np.array([-0.06, 0.0, 0.08]) * between(rng, -1.0, 1.0)
    ambient = between(rng, 0.85, 1.15) - 0.62 * strength
    return Light(direction / np.linalg.norm(direction), strength * warm, ambient * cool, between(rng, 0.0, 0.3) ** 1.5)


def light_surface(rng: np.random.Generator, view: View, light: Light, grid: Array) -> npt.NDArray[np.float32]:
    """(GRID_V, GRID_U, 4) what the texture's RGB is multiplied by, and the highlight that is added (0 to 255)."""
    seen = np.tensordot(view.rotation.astype(np.float32), grid, axes=1)
    along = np.empty_like(seen)
    along[:, :, 1:-1] = seen[:, :, 2:] - seen[:, :, :-2]
    along[:, :, 0], along[:, :, -1] = along[:, :, 1], along[:, :, -2]
    down = np.empty_like(seen)
    down[:, 1:-1] = seen[:, 2:] - seen[:, :-2]
    down[:, 0], down[:, -1] = down[:, 1], down[:, -2]
    normal = np.stack(
        [
            along[1] * down[2] - along[2] * down[1],
            along[2] * down[0] - along[0] * down[2],
            along[0] * down[1] - along[1] * down[0],
        ]
    )
    normal /= np.sqrt((normal * normal).sum(axis=0)) + 1e-9
    direct = np.maximum(np.tensordot(light.direction.astype(np.float32), normal, axes=1), 0.0)
    half = light.direction + np.array([0.0, 0.0, 1.0])
    half /= np.linalg.norm(half)
    glance = np.maximum(np.tensordot(half.astype(np.float32), normal, axes=1), 0.0)
    # Hollows get less light from around: compare the surface with its own surroundings.
    z = np.ascontiguousarray(grid[2])
    hollow = np.clip(1.0 + 2.2 * (z - cv2.GaussianBlur(z, (0, 0), 5.0)), 0.55, 1.12)
    mottle = cv2.resize(cut(rng, noise_banks()[1], GRID_U, GRID_V), (GRID_U, GRID_V)).astype(np.float32)
    hollow *= 1.0 + (mottle - 128.0) * np.float32(0.04 / 45.0)
    # Light from around comes from above more than from below.
    ambient = hollow * (0.9 - 0.16 * normal[1])
    out = np.empty((*z.shape, 4), dtype=np.float32)
    for k in range(3):
        out[..., k] = np.float32(light.ambient[k]) * ambient + np.float32(light.color[k]) * direct * hollow
    out[..., 3] = 255.0 * light.shine * glance**18
    return out


def puffed(head: Head, wear: Wear, grid: npt.NDArray[np.float32], theta: Array, y: Array) -> npt.NDArray[np.float32]:
    """The surface with the hair's thickness."""
    depth = np.clip((hair_line(wear, theta)[None] - y[:, None]) / 0.22, 0.0, 1.0)
    depth = (wear.puff * np.sqrt(depth)).astype(np.float32)
    up = np.clip((head.widest - 0.3 - y) / (head.widest - 0.3 - head.crown), 0.0, 1.0)[:, None] ** 2
    grid = grid.copy()
    grid[0] += depth * np.sin(theta)
    grid[1] -= depth * up
    grid[2] += depth * np.cos(theta)
    return grid


def draw_person(
    rng: np.random.Generator, picture: Image, head: Head, parts: Features, view: View, wear: Wear, light: Light
) -> None:
    """Draw a person, from behind to before, into an (IMAGE_SIZE, IMAGE_SIZE, 3) picture."""
    texture, skin, hair = paint_skin(rng, head, parts, wear)
    theta = _u_to_theta(np.linspace(0.0, 1.0, GRID_U))
    y = _v_to_y(head, np.linspace(0.0, 1.0, GRID_V))
    grid = surface_grid(head, theta, y)
    if wear.puff > 0:
        grid = puffed(head, wear, grid, theta, y)
    flat, _ = view.unrolled(grid)
    raster = rasterize(head, view, flat.astype(np.float32))
    lit = cv2.remap(light_surface(rng, view, light, grid), raster.u, raster.v, cv2.INTER_LINEAR)
    scale_u, scale_v = (TEXTURE_U - 1) / (GRID_U - 1), (TEXTURE_V - 1) / (GRID_V - 1)
    color = cv2.remap(texture, raster.u * np.float32(scale_u), raster.v * np.float32(scale_v), cv2.INTER_LINEAR)
    layer = np.empty_like(lit)
    np.multiply(color, lit[..., :3], out=layer[..., :3])
    layer[..., :3] += lit[..., 3:]
    np.clip(layer[..., :3], 0, 255, out=layer[..., :3])
    layer[..., 3] = raster.coverage
    draw_body(rng, picture, head, view, wear, light, skin, hair)
    turn = np.column_stack([view.roll, view.roll @ raster.origin + view.shift])
    layer[..., :3] *= layer[..., 3:]
    placed = cv2.warpAffine(layer, turn, (IMAGE_SIZE, IMAGE_SIZE), flags=cv2.INTER_LINEAR)
    picture[:] = picture * (1.0 - placed[..., 3:]) + placed[..., :3]
    draw_accessories(rng, picture, head, view, wear, light, skin)


def draw_body(
    rng: np.random.Generator, picture: Image, head: Head, view: View, wear: Wear, light: Light, skin: Color, hair: Color
) -> None:
    """Draw what is behind the head: falling hair, shoulders, neck."""
    top = view.project(np.array([[0.0, 0.75, -0.25]]))[0]
    # The body hangs straighter than the head leans.
    lean = 0.35 * head.roll
    axis, across = np.array([-np.sin(lean), np.cos(lean)]), np.array([np.cos(lean), np.sin(lean)])
    scale = view.scale
    base = top + axis * scale * between(rng, 1.15, 1.5)
    neck = scale * between(rng, 0.52, 0.72) * head.half_width
    hair_behind = rng.random() < 0.5
    if wear.fall and hair_behind:
        _draw_falling_hair(rng, picture, head, view, wear, light, hair)
    _draw_shoulders(rng, picture, base, across * scale, axis * scale, light)
    if wear.fall and not hair_behind:
        _draw_falling_hair(rng, picture, head, view, wear, light, hair)
    t = np.linspace(-1.0, 1.0, 32, dtype=np.float32)
    normal = np.stack([t, np.zeros_like(t), np.sqrt(1.0 - t * t)])
    lit = light.ambient[:, None] * 0.8 + light.color[:, None] * np.maximum(light.direction @ normal, 0.0)
    shadow = np.interp(np.linspace(0.0, 1.0, 32), [0.0, 0.35, 0.75], [0.4, 0.5, 0.85])
    tile = np.empty((32, 32, 4), dtype=np.float32)
    tile[..., :3] = np.clip(shadow[:, None, None] * lit.T[None] * skin, 0, 255)
    tile[..., 3] = 1.0
    flare = between(rng, 1.15, 1.45)
    corners = [top - neck * across, top + neck * across, base + flare * neck * across, base - flare * neck * across]
    source = np.array([[0, 0], [31, 0], [31, 31], [0, 31]], dtype=np.float32)
    warp = cv2.getPerspectiveTransform(source, np.array(corners, dtype=np.float32))
    placed = cv2.warpPerspective(tile, warp, (IMAGE_SIZE, IMAGE_SIZE), flags=cv2.INTER_LINEAR)
    cv2.copyTo(placed[..., :3].astype(np.uint8), (placed[..., 3] > 0.5).astype(np.uint8), picture)


def _draw_shoulders(
    rng: np.random.Generator, picture: Image, base: Array, across: Array, axis: Array, light: Light
) -> None:
    wide, slope, collar = between(rng, 2.0, 2.9), between(rng, 0.35, 0.8), between(rng, 0.45, 0.8)
    shape = np.array(
        [[-collar, -0.25], [0.0, between(rng, 0.0, 0.5)], [collar, -0.25], [0.7 * wide, 0.45 * slope],
         [wide, slope + 0.3], [1.1 * wide, 4.0], [-1.1 * wide, 4.0], [-wide, slope + 0.3], [-0.7 * wide, 0.45 * slope]]
    )  # fmt: skip
    outline = base + shape[:, :1] * across + shape[:, 1:] * axis
    color = rng.uniform(15, 235, 3) * np.clip(light.ambient + 0.5 * light.color, 0.3, 1.1)
    mask = np.zeros(picture.shape[:2], dtype=np.uint8)
    cv2.fillPoly(mask, [_fixed(outline)], 255, cv2.LINE_AA, _SHIFT)
    cloth = np.empty_like(picture)
    cloth[:] = np.clip(color, 0, 255)
    if rng.random() < 0.35:
        second = rng.uniform(15, 235, 3).tolist()
        step = int(rng.integers(8, 30))
        for k in range(-IMAGE_SIZE, 2 * IMAGE_SIZE, step):
            if rng.random() < 0.97:
                cv2.line(cloth, (k, IMAGE_SIZE), (k + int(60 * slope), 0), second, step // 3)
    cv2.copyTo(cloth, (mask > 127).astype(np.uint8), picture)


def _draw_falling_hair(
    rng: np.random.Generator, picture: Image, head: Head, view: View, wear: Wear, light: Light, hair: Color
) -> None:
    y = np.linspace(head.crown + 0.4, wear.fall, 9)
    width = half_width(head, np.minimum(y, head.widest)) + 1.1 * wear.puff
    width = width + between(rng, -0.25, 0.35) * np.clip((y - 0.3) / 2.0, 0.0, 1.0) + rng.uniform(-0.05, 0.05, 9)
    width[-1] *= 0.7
    left, right = np.stack([-width, y, np.full(9, -0.2)], axis=1), np.stack([width, y, np.full(9, -0.2)], axis=1)
    outline = view.project(np.concatenate([left, right[::-1]]))
    mask = np.zeros(picture.shape[:2], dtype=np.uint8)
    cv2.fillPoly(mask, [_fixed(outline)], 255, cv2.LINE_AA, _SHIFT)
    shade = np.clip(light.ambient + 0.3 * light.color, 0.2, 1.0).mean()
    texture = hair_texture(rng, wear, hair * 0.75 * shade, IMAGE_SIZE, IMAGE_SIZE)
    cv2.copyTo(texture, (mask > 127).astype(np.uint8), picture)


def draw_accessories(
    rng: np.random.Generator, picture: Image, head: Head, view: View, wear: Wear, light: Light, skin: Color
) -> None:
    """Draw glasses, and what is before the face."""
    lenses = lens_outlines(head, view, wear)
    if lenses:
        _draw_glasses(rng, picture, head, view, wear, lenses)
    if not wear.occluders:
        return
    lit = np.clip(light.ambient + 0.6 * light.color, 0.3, 1.1)
    own = skin * between(rng, 0.85, 1.1) if wear.occluder_kind == "hand" else rng.uniform(10, 240, 3)
    color = np.clip(own * lit, 0, 255)
    grain = cut(rng, noise_banks()[1], IMAGE_SIZE, IMAGE_SIZE)
    ramp = np.clip(np.linspace(0.8, 1.2, 256)[:, None] * color, 0, 255).astype(np.uint8)
    surface = cv2.applyColorMap(grain, ramp.reshape(256, 1, 3))
    for polygon in wear.occluders:
        mask = np.zeros(picture.shape[:2], dtype=np.uint8)
        cv2.fillPoly(mask, [_fixed(polygon)], 255, cv2.LINE_AA, _SHIFT)
        cv2.copyTo(surface, (mask > 127).astype(np.uint8), picture)
        edge = (color * 0.6).tolist()
        cv2.polylines(picture, [_fixed(polygon)], True, edge, 1, cv2.LINE_AA, _SHIFT)


def _draw_glasses(
    rng: np.random.Generator, picture: Image, head: Head, view: View, wear: Wear, lenses: list[Array]
) -> None:
    frame = rng.uniform(5, 70, 3) if rng.random() < 0.7 else rng.uniform(40, 220, 3)
    tint = rng.uniform(5, 60, 3) if wear.dark > 0.5 else np.array([200.0, 215.0, 225.0])
    thick = int(rng.integers(1, 5))
    for outline in lenses:
        mask = np.zeros(picture.shape[:2], dtype=np.uint8)
        cv2.fillPoly(mask, [_fixed(outline)], 255, cv2.LINE_AA, _SHIFT)
        _mix(picture, tint, mask, wear.dark)
    half_x, half_y, _ = wear.glasses or (0.0, 0.0, 0.0)
    x = np.linspace(-1.0, 1.0, 5) * (head.eye_x + 0.015 - half_x)
    bridge = np.stack([x, np.full(5, -0.25 * half_y), glasses_depth(head, x)], axis=1)
    pieces = [_fixed(view.project(bridge))]
    # The far temple is behind the face.
    for sign in (-1.0, 1.0):
        if sign * head.yaw < 0.12:
            out = sign * (head.eye_x + 0.015 + half_x)
            ear = sign * (head.half_width + 0.02)
            bow = [[out, -0.08, float(glasses_depth(head, np.array(out)))], [ear, -0.08, 0.7], [ear, -0.05, 0.05]]
            pieces.append(_fixed(view.project(np.array(bow))))
    cv2.polylines(picture, pieces, False, frame.tolist(), max(thick - 1, 1), cv2.LINE_AA, _SHIFT)
    cv2.polylines(picture, [_fixed(o) for o in lenses], True, frame.tolist(), thick, cv2.LINE_AA, _SHIFT)
