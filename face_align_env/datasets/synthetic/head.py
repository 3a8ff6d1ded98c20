"""A parametric 3D head: its identity, expression and pose, its surface, and its landmarks.

Axes of the head: x to the right of the picture, y down, z out of the face, origin between the ears at the
height of the eyes. Lengths are in half face-widths (about 7 cm) and angles in radians. A point of the
surface has coordinates (theta, y): theta is the angle around the vertical axis, 0 in the middle of the face,
negative at the left of the picture. Features are designed flat, as (x, y) seen from the front, and lie on the
surface at sin(theta) = x / half_width(y).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]  # floats

IMAGE_SIZE = 256  # px, the side of every picture
EAR_THETA = 1.74  # rad, the rims of the ears
THETA_MAX = 2.75  # rad, the back of the head beyond it is never seen
_JAW_SIN = 0.985  # sin(theta) of the jaw's contour: the silhouette of a frontal face
_STEPS = np.array([0.06, 0.14, 0.26, 0.45, 0.8])  # half face-widths, from a point on its way to the camera

# Curve parameters; the landmarks are among the samples, so they lie on what is drawn.
_EYE_T = np.linspace(0.0, 1.0, 13)  # from the outer corner to the inner one
_BROW_T = np.linspace(0.0, 1.0, 9)  # likewise
_LIP_Q = np.array([-1, -0.85, -0.62, -0.42, -0.22, -0.1, 0, 0.1, 0.22, 0.42, 0.62, 0.85, 1])
_INNER_Q = np.array([-1, -0.8, -0.6, -0.35, -0.15, 0, 0.15, 0.35, 0.6, 0.8, 1])
_INNER_WIDTH = 0.86  # the inner lip contour's width, of the outer one's
_JAW_DOWN = np.sin(0.5 * np.pi * np.linspace(0.0, 1.0, 40))

# The model's points are the 68 landmarks and these 13; the other schemes pick from all 81 (of the 19, whether
# they are visible; their coordinates are means of the 68).
# 68-71 brow middle (left upper, left lower, right upper, right lower), 72-75 likewise the lids' middles,
# 76-77 pupils, 78 mouth centre, 79-80 eye centres.
SCHEME_POINTS: dict[int, list[int]] = {
    68: list(range(68)),
    29: [
        17, 26, 21, 22, 68, 69, 70, 71, 36, 45, 39, 42, 72, 73, 74, 75, 76, 77,
        31, 35, 30, 33, 48, 54, 51, 62, 66, 57, 8,
    ],
    19: [17, 19, 21, 22, 24, 26, 36, 79, 39, 42, 80, 45, 31, 30, 35, 48, 78, 54, 8],
}  # fmt: skip


@dataclass(frozen=True)
class Head:
    """Who it is, what the face does, and how it stands before the camera; pairs are (left, right) in the picture."""

    # Identity
    half_width: float
    crown: float  # y of the top of the skull
    widest: float  # y where the head is widest
    jaw_power: float  # 1.8: a pointed jaw, 2.8: a square one
    jaw_taper: float  # how much narrower the jaw is than the cheeks
    chin_length: float  # from the lower lip to the chin
    chin_bump: float
    front: float  # z of the forehead
    back: float  # -z of the back of the head
    flatness: float  # power of the horizontal section; 2 is an ellipse
    cheek: float
    hollow: float
    ear: float
    eye_x: float
    eye_half: float  # half the distance of an eye's corners
    eye_height: float
    eye_tilt: float  # how much higher the outer corner is
    brow_y: float
    brow_half: float
    brow_arch: float
    brow_tilt: float
    brow_thickness: float
    nose_tip_y: float
    nose_height: float
    nose_half: float
    nose_bridge: float  # z of the nose's root, of its tip's
    mouth_below: float  # from the nose's base to the mouth
    mouth_half: float
    lip_upper: float
    lip_lower: float
    # Expression
    eye_open: tuple[float, float]  # 0 closed, 1 usual
    brow_raise: tuple[float, float]
    gaze: tuple[float, float]  # of the eye's half width and height
    mouth_open: float  # distance of the lips
    smile: float  # -0.5 a sad mouth, 1 a broad smile
    mouth_shift: float
    mouth_tilt: float
    # Pose and camera
    yaw: float  # positive: the nose points to the right of the picture
    pitch: float  # positive: looks up
    roll: float  # positive: clockwise in the picture
    camera: float  # distance of the camera
    box_side: float  # px, the larger side of the landmarks' box
    box_center: tuple[float, float]  # px

    @property
    def nose_base_y(self) -> float:
        return self.nose_tip_y + 0.12

    @property
    def mouth_y(self) -> float:
        return self.nose_base_y + self.mouth_below

    @property
    def chin(self) -> float:
        """y of the chin, which goes down with the jaw when the mouth opens."""
        return self.mouth_y + 0.9 * self.mouth_open + self.lip_lower + self.chin_length


def _normal(rng: np.random.Generator, mean: float, std: float) -> float:
    """A normal deviate within 2.2 standard deviations, so that no face is a monster."""
    return mean + std * min(max(float(rng.standard_normal()), -2.2), 2.2)


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A uniform deviate; several times faster than ``rng.uniform``."""
    return low + (high - low) * float(rng.random())


def sample_head(rng: np.random.Generator) -> Head:
    """A random head."""
    smile = between(rng, -0.5, 0.1) if rng.random() < 0.35 else between(rng, 0.0, 1.0)
    mouth_open = 0.0 if rng.random() < 0.5 else between(rng, 0.01, 0.14)
    if rng.random() < 0.15:
        mouth_open = between(rng, 0.14, 0.5)
    lids = 0.0 if rng.random() < 0.07 else _normal(rng, 1.0, 0.18) - 0.25 * max(smile, 0.0)
    wink = float(rng.random())
    raise_ = _normal(rng, 0.0, 0.05)
    yaw = _normal(rng, 0.0, 0.32) if rng.random() < 0.6 else between(rng, -1.05, 1.05)
    return Head(
        half_width=_normal(rng, 1.02, 0.06),
        crown=_normal(rng, -1.62, 0.07),
        widest=_normal(rng, -0.1, 0.08),
        jaw_power=_normal(rng, 2.15, 0.25),
        jaw_taper=_normal(rng, 0.08, 0.05),
        chin_length=_normal(rng, 0.46, 0.075),
        chin_bump=_normal(rng, 0.07, 0.025),
        front=_normal(rng, 1.24, 0.06),
        back=_normal(rng, 1.3, 0.07),
        flatness=_normal(rng, 2.25, 0.12),
        cheek=_normal(rng, 0.04, 0.025),
        hollow=between(rng, 0.0, 0.06),
        ear=_normal(rng, 0.19, 0.04),
        eye_x=_normal(rng, 0.425, 0.03),
        eye_half=_normal(rng, 0.195, 0.014),
        eye_height=_normal(rng, 0.094, 0.018),
        eye_tilt=_normal(rng, 0.015, 0.022),
        brow_y=_normal(rng, -0.285, 0.035),
        brow_half=_normal(rng, 0.27, 0.022),
        brow_arch=_normal(rng, 0.075, 0.03),
        brow_tilt=_normal(rng, 0.0, 0.035),
        brow_thickness=_normal(rng, 0.045, 0.013),
        nose_tip_y=_normal(rng, 0.5, 0.045),
        nose_height=_normal(rng, 0.33, 0.05),
        nose_half=_normal(rng, 0.22, 0.028),
        nose_bridge=_normal(rng, 0.22, 0.09),
        mouth_below=_normal(rng, 0.29, 0.035),
        mouth_half=_normal(rng, 0.345, 0.035) + 0.07 * max(smile, 0.0) - 0.12 * mouth_open,
        lip_upper=_normal(rng, 0.085, 0.025),
        lip_lower=_normal(rng, 0.115, 0.028),
        eye_open=(
            0.0 if wink < 0.015 else max(lids + _normal(rng, 0.0, 0.05), 0.0 if lids == 0.0 else 0.18),
            0.0 if wink > 0.985 else max(lids + _normal(rng, 0.0, 0.05), 0.0 if lids == 0.0 else 0.18),
        ),
        brow_raise=(raise_ + _normal(rng, 0.0, 0.015), raise_ + _normal(rng, 0.0, 0.015)),
        gaze=(_normal(rng, 0.0, 0.22), _normal(rng, 0.0, 0.15)),
        mouth_open=mouth_open,
        smile=smile,
        mouth_shift=_normal(rng, 0.0, 0.012),
        mouth_tilt=_normal(rng, 0.0, 0.025),
        yaw=yaw,
        pitch=_normal(rng, 0.0, 0.19),
        roll=_normal(rng, 0.0, 0.16) if rng.random() < 0.8 else between(rng, -0.52, 0.52),
        camera=between(rng, 6.0, 16.0),
        box_side=IMAGE_SIZE * between(rng, 0.47, 0.62),
        box_center=(
            0.5 * (IMAGE_SIZE - 1) + between(rng, -8.0, 8.0),
            0.5 * (IMAGE_SIZE - 1) + between(rng, -8.0, 8.0),
        ),
    )


# --- the surface ---


def _unit(v: Array) -> Array:
    """``v`` within 0 to 1; on a few points several times faster than ``np.clip``."""
    return np.minimum(np.maximum(v, 0.0), 1.0)


def half_width(head: Head, y: Array) -> Array:
    """The half width of the head at each height ``y``."""
    up = _unit((head.widest - y) / (head.widest - head.crown))
    down = _unit((y - head.widest) / (head.chin - head.widest))
    skull = (1.0 - up**2.4) ** (1 / 2.4)
    jaw = (1.0 - down**head.jaw_power) ** (1 / head.jaw_power) * (1.0 - head.jaw_taper * down)
    return head.half_width * skull * jaw


def _profile(head: Head, y: Array) -> tuple[Array, Array, Array]:
    """z of the middle of the face without features, of the jaw's line, and of the back, at each height."""
    up = _unit((-0.3 - y) / (-0.3 - head.crown))
    down = _unit((y - head.widest) / (head.chin - head.widest))
    skull = (1.0 - up**2.6) ** (1 / 2.6)
    front = head.front * skull * (1.0 - 0.12 * down * down)
    # The side of the head is in the ears' plane down to the jaw's angle, and then follows the jaw to the chin.
    side = 0.76 * head.front * down**2.3
    back = side - skull * head.back * np.sqrt(np.clip(1.0 - (down / 0.8) ** 2, 0.002, 1.0))
    return front, side, back


def _bumps(head: Head, xi: Array, y: Array) -> tuple[Array, Array]:
    """The features' relief in z as a sum of products: (K, N) functions of xi = sin(theta), (K, M) ones of ``y``."""
    root, tip, base = -0.12, head.nose_tip_y, head.nose_base_y
    mouth, chin = head.mouth_y, head.chin
    low = mouth + 0.85 * head.mouth_open
    eye, smile = head.eye_x / head.half_width, max(head.smile, 0.0)
    # Bells: center and width in |xi|, center and width in y, height.
    table = np.array(
        [
            [0.35, 0.3, head.brow_y + 0.06, 0.12, 0.05],  # brow ridge
            [eye, 0.2, 0.0, 0.15, -0.11],  # eye socket
            [eye, 0.12, 0.0, 0.09, 0.07],  # eyeball
            [0.8 * head.nose_half / head.half_width, 0.075, base - 0.075, 0.075, 0.42 * head.nose_height],  # wings
            [0.55, 0.24, 0.33, 0.2, head.cheek + 0.05 * smile],  # cheekbone
            [0.68, 0.2, mouth - 0.05, 0.25, -head.hollow],  # hollow of the cheek
            [0.0, 0.42, mouth, 0.26, 0.09],  # muzzle
            [0.0, 0.3, mouth - 0.6 * head.lip_upper, 0.07, 0.6 * head.lip_upper],
            [0.0, 0.28, low + 0.6 * head.lip_lower, 0.07, 0.6 * head.lip_lower],
            [0.0, 0.3, low + head.lip_lower + 0.1, 0.08, -0.06],  # groove over the chin
            [0.0, 0.3, chin - 0.17, 0.13, head.chin_bump],
            [0.0, 0.3, 0.5 * (mouth + low), 0.05 + 0.3 * head.mouth_open, -0.25 * head.mouth_open],
            [0.0, 0.11, 0.0, 1.0, 0.0],  # the nose's ridge and its tip: across here, down below
            [0.0, 0.17, 0.0, 1.0, 0.0],
        ]
    ).T[..., None]
    across = np.exp(-(((np.abs(xi) - table[0]) / table[1]) ** 2))
    down = table[4] * np.exp(-(((y - table[2]) / table[3]) ** 2))
    # The nose's profile from its root to its tip and back to its base; its ridge widens towards the tip.
    knots = [root - 0.25, root, 0.5 * (root + tip), tip - 0.06, tip, tip + 0.05, base, base + 0.1]
    heights = np.array([0.0, head.nose_bridge, 0.5 + 0.4 * head.nose_bridge, 0.97, 1.0, 0.86, 0.2, 0.0])
    nose = np.interp(y, knots, heights * head.nose_height)
    wide = _unit((y - root) / (tip - root)) ** 2
    down[-2], down[-1] = nose * (1.0 - wide), nose * wide
    return across, down


def surface_grid(head: Head, theta: Array, y: Array) -> npt.NDArray[np.float32]:
    """(3, len(y), len(theta)) x, y, z of the skin, ears included."""
    s, c = np.sin(theta), np.cos(theta)
    facing = np.where(c > 0, np.maximum(1.0 - np.abs(s) ** head.flatness, 0.0) ** (1 / head.flatness), 0.0)
    away = np.minimum(c, 0.0)
    width = half_width(head, y)
    front, side, back = _profile(head, y)
    across, down = _bumps(head, s, y)
    # The ears, which stand off more at their tops and backs.
    off = np.abs(theta) - EAR_THETA
    ear = np.exp(-((off / np.where(off < 0, 0.16, 0.09)) ** 2)) * np.sign(s)
    standing = head.ear * np.exp(-(((y - 0.2) / 0.36) ** 4)) * (1.15 - 0.5 * (y - 0.2))
    # Sums of products of functions of the height and functions of the angle.
    grid = np.empty((3, len(y), len(theta)), dtype=np.float32)
    grid[0] = np.array([width, standing]).T @ np.array([s, ear])
    grid[1] = y[:, None]
    across *= c > 0
    grid[2] = np.vstack([side, front - side, side - back, down]).T @ np.vstack([np.ones_like(s), facing, away, across])
    return grid


def surface_z(head: Head, x: Array, y: Array) -> tuple[Array, Array]:
    """For points (x, y) seen from the front: z of the face there, and sin(theta) (over 1 is beside the head)."""
    xi = x / np.maximum(half_width(head, y), 1e-3)
    front, side, _ = _profile(head, y)
    facing = np.maximum(1.0 - np.abs(xi) ** head.flatness, 0.0) ** (1 / head.flatness)
    across, down = _bumps(head, xi, y)
    return side + (front - side) * facing + (across * down).sum(axis=0), xi


# --- the features, flat ---


@dataclass(frozen=True)
class Features:
    """The drawn curves in face-plane coordinates; a first axis of 2 is (left, right) in the picture."""

    upper_lids: Array  # (2, 13, 2), from the outer corner to the inner one, as the lower lids and brows
    lower_lids: Array  # (2, 13, 2)
    pupils: Array  # (2, 2)
    brows: Array  # (2, 9, 2)
    brow_thickness: Array  # (9,) half the thickness along each brow
    lip_top: Array  # (13, 2) outer contour of the upper lip, from left to right, as all contours of the mouth
    lip_bottom: Array  # (13, 2)
    mouth_top: Array  # (11, 2) inner contours: the lower edge of the upper lip
    mouth_bottom: Array  # (11, 2)
    nose: Array  # (9, 2) points 27 to 35


_SIGNS = np.array([[-1.0], [1.0]])
_LID_HUMP = (4.0 * _EYE_T * (1.0 - _EYE_T)) ** 0.75
_UPPER_LID_HUMP = _LID_HUMP * (1.0 + 0.25 * (_EYE_T - 0.5))
_BROW_ARCH = np.array([-0.26, 0.12, 0.55, 0.9, 0.88, 0.69, 0.46, 0.23, 0.06])
_BROW_THICKNESS = np.interp(_BROW_T, [0.0, 0.5, 0.85, 1.0], [0.25, 0.85, 1.0, 0.7])
_LIP_BODY = (1.0 - _LIP_Q**2) ** 0.6
_CUPIDS_BOW = 1.0 - 0.22 * np.exp(-((_LIP_Q / 0.13) ** 2))
_MOUTH_Q = np.concatenate([_LIP_Q, _INNER_WIDTH * _INNER_Q])
_MOUTH_GAP = np.maximum(1.0 - (_MOUTH_Q / _INNER_WIDTH) ** 2, 0.0) ** 0.7


def features(head: Head) -> Features:
    """The curves of a head's features."""
    opened = np.array(head.eye_open)[:, None]
    x = _SIGNS * (head.eye_x + head.eye_half * (1.0 - 2.0 * _EYE_T))
    line = head.eye_tilt * (2.0 * _EYE_T - 1.0) + 0.02 * _EYE_T
    bottom = line + head.eye_height * (0.42 + 0.18 * np.minimum(opened, 1.0)) * _LID_HUMP
    top = np.minimum(line - head.eye_height * (1.35 * opened - 0.42) * _UPPER_LID_HUMP, bottom)
    upper, lower = np.stack([x, top], axis=-1), np.stack([x, bottom], axis=-1)
    middle = 0.5 * (upper[:, 6] + lower[:, 6])
    pupils = middle + np.array(head.gaze) * np.stack([np.full(2, head.eye_half), 0.35 * (bottom - top)[:, 6]], axis=1)
    brow_x = _SIGNS * (head.eye_x + 0.02 + head.brow_half * (1.0 - 2.0 * _BROW_T))
    brow_y = head.brow_y - head.brow_arch * _BROW_ARCH + head.brow_tilt * (2.0 * _BROW_T - 1.0)
    brows = np.stack([brow_x, brow_y - np.array(head.brow_raise)[:, None]], axis=-1)
    tip, base, wing = head.nose_tip_y, head.nose_base_y, head.nose_half
    root, low, lower_still = -0.06, base - 0.05, base - 0.01
    nose = np.array(
        [
            [0.0, root], [0.0, (2 * root + tip) / 3], [0.0, (root + 2 * tip) / 3], [0.0, tip],
            [-wing, low], [-0.5 * wing, lower_still], [0.0, base + 0.01], [0.5 * wing, lower_still], [wing, low],
        ]
    )  # fmt: skip
    return Features(upper, lower, pupils, brows, head.brow_thickness * _BROW_THICKNESS, *_mouth(head), nose)


def _mouth(head: Head) -> tuple[Array, Array, Array, Array]:
    """The upper lip's outer, the lower lip's outer, the upper lip's inner and the lower lip's inner contour."""
    corner = -0.11 * head.smile + 0.25 * head.mouth_open
    line = head.mouth_y + corner * np.abs(_MOUTH_Q) ** 1.7 + head.mouth_tilt * _MOUTH_Q
    x = head.mouth_shift + head.mouth_half * _MOUTH_Q
    top = np.stack([x, line - 0.12 * head.mouth_open * _MOUTH_GAP], axis=1)
    bottom = np.stack([x, line + 0.88 * head.mouth_open * _MOUTH_GAP], axis=1)
    n = len(_LIP_Q)
    lip_top, lip_bottom = top[:n].copy(), bottom[:n].copy()
    lip_top[:, 1] -= head.lip_upper * _LIP_BODY * _CUPIDS_BOW
    lip_bottom[:, 1] += head.lip_lower * _LIP_BODY
    return lip_top, lip_bottom, top[n:], bottom[n:]


def jaw_outline(head: Head) -> Array:
    """(17, 2) the jaw's contour seen from the front, points 0 to 16, evenly spaced along it."""
    top = 0.06
    # _JAW_DOWN is denser towards the chin, where the contour turns flat.
    y = top + (head.chin - top) * _JAW_DOWN
    x = _JAW_SIN * half_width(head, y)
    length = np.zeros(len(y))
    np.cumsum(np.hypot(x[1:] - x[:-1], y[1:] - y[:-1]), out=length[1:])
    at = np.linspace(0.0, length[-1], 9)
    xs, ys = np.interp(at, length, x), np.interp(at, length, y)
    return np.stack([np.concatenate([-xs, xs[-2::-1]]), np.concatenate([ys, ys[-2::-1]])], axis=1)


def _curve_points() -> npt.NDArray[np.intp]:
    """(2, 81) the two points of :func:`model_points`' curves that each of the model's points is the middle of."""
    starts = np.cumsum([0, 17, 9, 9, 9, 13, 13, 13, 13, 13, 13, 11, 11, 4])
    jaw, lb, rb, nose, lu, ru, ll, rl, top, bottom, inner_top, inner_bottom, middles, pupils = (
        np.arange(start, start + 40) for start in starts
    )
    one = np.concatenate(
        [
            jaw[:17], lb[:9:2], rb[8::-2], nose[:9],
            lu[[0, 4, 8, 12]], ll[[8, 4]],
            ru[[12, 8, 4, 0]], rl[[4, 8]],
            top[:13:2], bottom[10:0:-2],
            inner_top[[0, 3, 5, 7, 10]], inner_bottom[[7, 5, 3]],
            middles[[0, 2, 1, 3]], lu[[6]], ll[[6]], ru[[6]], rl[[6]],
            pupils[:2],
        ]
    )  # fmt: skip
    between_two = np.array([inner_top[5], lu[6], ru[6]]), np.array([inner_bottom[5], ll[6], rl[6]])
    return np.stack([np.concatenate([one, middle]) for middle in between_two])


_CURVE_POINTS = _curve_points()


def model_points(head: Head, parts: Features) -> Array:
    """(81, 3) the model's points in the head's coordinates; see :data:`SCHEME_POINTS`."""
    rise = np.array([[[0.0, -parts.brow_thickness[4]]], [[0.0, parts.brow_thickness[4]]]])
    curves = np.concatenate(
        [
            jaw_outline(head),
            parts.brows.reshape(-1, 2),
            parts.nose,
            parts.upper_lids.reshape(-1, 2),
            parts.lower_lids.reshape(-1, 2),
            parts.lip_top,
            parts.lip_bottom,
            parts.mouth_top,
            parts.mouth_bottom,
            (parts.brows[:, 4] + rise).reshape(-1, 2),
            parts.pupils,
        ]
    )
    # A point of the model is a point of these curves, or the middle between two of them.
    flat = 0.5 * (curves[_CURVE_POINTS[0]] + curves[_CURVE_POINTS[1]])
    z, _ = surface_z(head, flat[:, 0], flat[:, 1])
    points = np.empty((len(flat), 3))
    points[:, :2], points[:, 2] = flat, z
    return points


# --- pose and camera ---


@dataclass(frozen=True)
class View:
    """How the head's coordinates become pixels.

    :param rotation: (3, 3) yaw and pitch
    :param camera: distance of the camera, half face-widths
    :param scale: px per half face-width at the pivot's distance
    :param roll: (2, 2) rotation in the picture
    :param shift: (2,) px
    """

    rotation: Array
    camera: float
    scale: float
    roll: Array
    shift: Array

    def unrolled(self, points: Array) -> tuple[Array, Array]:
        """(2, ...) px before roll and shift, and (...) depth towards the camera, of (3, ...) points."""
        x, y, z = points[0], points[1] - 0.4, points[2] - 0.2  # the pivot is inside the head
        r = self.rotation.astype(points.dtype)
        depth = r[2, 0] * x + r[2, 1] * y + r[2, 2] * z
        zoom = self.scale / (1.0 - depth / self.camera)
        return (
            np.stack([(r[0, 0] * x + r[0, 2] * z) * zoom, (r[1, 0] * x + r[1, 1] * y + r[1, 2] * z) * zoom]),
            depth,
        )

    def project(self, points: Array) -> Array:
        """(N, 2) pixels of the (N, 3) points."""
        flat, _ = self.unrolled(points.T)
        return flat.T @ self.roll.T + self.shift


def view_of(head: Head, points: Array) -> View:
    """The view in which the box of the (68, 3) ``points`` has the head's ``box_side`` and ``box_center``."""
    sy, cy, sp, cp = np.sin(head.yaw), np.cos(head.yaw), np.sin(head.pitch), np.cos(head.pitch)
    # First yaw, then pitch; row 0 has no y, which is what lets the picture be made row by row.
    rotation = np.array([[cy, 0.0, sy], [sp * sy, cp, -sp * cy], [-cp * sy, sp, cp * cy]])
    roll = np.array([[np.cos(head.roll), -np.sin(head.roll)], [np.sin(head.roll), np.cos(head.roll)]])
    flat = View(rotation, head.camera, 1.0, roll, np.zeros(2)).project(points)
    low, high = flat.min(axis=0), flat.max(axis=0)
    scale = head.box_side / float((high - low).max())
    return View(rotation, head.camera, scale, roll, np.array(head.box_center) - 0.5 * scale * (low + high))


def faces_camera(head: Head, view: View, points: Array) -> npt.NDArray[np.bool_]:
    """(N,) whether the head itself leaves each of its (N, 3) points in view."""
    toward = view.rotation[2]
    # Walk from each point to the camera; where the way dives into the head, the point is hidden.
    way = points[:, None, :] + _STEPS[None, :, None] * toward
    z, xi = surface_z(head, way[..., 0].ravel(), way[..., 1].ravel())
    inside = (np.abs(xi) < 0.97) & (way[..., 2].ravel() < z - 0.03) & (way[..., 1].ravel() < head.chin)
    outside: npt.NDArray[np.bool_] = ~inside.reshape(len(points), -1).any(axis=1)
    return outside
