"""What a synthetic head wears: hair, glasses, and things before the face; and which landmarks they hide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from face_align_env.datasets.synthetic.head import THETA_MAX, Array, Head, View, between, half_width

_SWEEP = 0.11  # half face-widths, standard deviation


@dataclass(frozen=True)
class Wear:
    """Hair or a head-covering, glasses, and what is before the face.

    :param hair_theta: (N,) angles from the face's middle, and ``hair_y`` the height down to which hair grows there
    :param sweep: how much lower the hair reaches at the right of the forehead (swept there) than at its middle
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
    sweep: float
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
    front, temple, side, over_ear, back = between(rng, -1.08, -0.7), between(rng, 0.6, 0.95), 0.0, -0.17, 0.7
    puff, fall, cloth, sideburn = between(rng, 0.05, 0.16), 0.0, False, between(rng, 1.12, 1.3)
    side = between(rng, -0.3, 0.2)
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
    peak = between(rng, -0.12, 0.16)
    sweep = 0.0 if cloth else _SWEEP * float(rng.standard_normal())
    hair_theta = np.array([0.0, 0.5 * temple, temple, sideburn, 1.46, 1.56, 1.88, 2.0, THETA_MAX])
    hair_y = np.array([front + peak, front, front, side, side, over_ear, over_ear, back, back])

    glasses, dark = None, 0.0
    if rng.random() < 0.2:
        glasses = (between(rng, 0.24, 0.3), between(rng, 0.15, 0.25), between(rng, 2.0, 5.0))
        dark = between(rng, 0.75, 0.97) if rng.random() < 0.25 else between(rng, 0.0, 0.15)
    kind = ""
    occluders: tuple[Array, ...] = ()
    if rng.random() < 0.16:
        kind = ("hand", "box", "mask", "strand")[int(rng.integers(4))]
        occluders = _occluders(rng, kind, landmarks)
    return Wear(hair_theta, hair_y, sweep, puff, fall, cloth, glasses, dark, occluders, kind)


def hair_line(wear: Wear, theta: Array) -> Array:
    """The height down to which hair grows, at angles around the head."""
    swept = wear.sweep * np.clip(theta / 0.4, -1.0, 1.0) * np.clip(2.2 - 2.2 * np.abs(theta), 0.0, 1.0)
    return np.interp(np.abs(theta), wear.hair_theta, wear.hair_y) + swept


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
    inside: npt.NDArray[np.bool_] = ((crosses & (x < at)).sum(axis=1) % 2).astype(bool)
    return inside


def covered(head: Head, view: View, wear: Wear, points: Array, pixels: Array) -> npt.NDArray[np.bool_]:
    """(N,) whether hair, dark glasses or an occluder hides the (N, 3) points at (N, 2) ``pixels``."""
    sine = points[:, 0] / np.maximum(half_width(head, points[:, 1]), 1e-3)
    hidden = points[:, 1] < hair_line(wear, np.arcsin(np.clip(sine, -1.0, 1.0)))
    polygons = list(wear.occluders) + (lens_outlines(head, view, wear) if wear.dark > 0.5 else [])
    for polygon in polygons:
        hidden |= inside(pixels, polygon)
    return hidden
