"""The skin of a synthetic head, unrolled: complexion, eyes, brows, lips, folds, beard and hair, painted.

Colours are RGB, 0 to 255.
"""

from __future__ import annotations

import cv2
import numpy as np

from face_align_env.datasets.synthetic.canvas import (
    COLUMN_THETA,
    EAR_OUT,
    ROW_V,
    SHIFT,
    TEXTURE_U,
    TEXTURE_V,
    UNIT,
    Canvas,
    Color,
    Image,
    colored,
    cut,
    ellipse,
    fixed,
    mix,
    noise_banks,
    plain,
    some_color,
    v_to_y,
)
from face_align_env.datasets.synthetic.head import Features, Head, between, half_width
from face_align_env.datasets.synthetic.wear import Wear, hair_line

SKIN = np.array(
    [
        [255, 224, 204], [244, 205, 181], [236, 190, 160], [225, 172, 138], [208, 150, 113],
        [184, 125, 88], [154, 99, 66], [122, 76, 50], [92, 57, 39], [64, 41, 30],
    ],
    dtype=np.float64,
)  # fmt: skip
HAIR = np.array(
    [
        [22, 18, 17], [36, 27, 22], [60, 40, 27], [92, 62, 38], [134, 96, 56], [186, 148, 92],
        [150, 70, 34], [165, 162, 158], [215, 212, 206],
    ],
    dtype=np.float64,
)  # fmt: skip
IRIS = np.array([[62, 38, 22], [92, 60, 32], [120, 100, 54], [84, 112, 88], [88, 122, 158], [128, 140, 148]])

# The rim of the iris, the iris, the pupil and the highlight, one after the other, in radii of the iris.
_EYE_SPOTS = np.concatenate(
    [
        ellipse(np.array([dx, dy]), size, size)
        for dx, dy, size in ((0.0, 0.0, 1.0), (0.0, 0.0, 0.86), (0.0, 0.0, 0.42), (0.3, -0.35, 0.2))
    ]
)
_WHITE_OF_EYE = np.array([228.0, 222.0, 216.0])
_MIRROR = np.array([[[-1.0, 1.0]], [[1.0, 1.0]]])  # a curve at the right of the face, to the pair of it


# --- the parts ---


def paint_skin(rng: np.random.Generator, head: Head, parts: Features, wear: Wear) -> tuple[Image, Color, Color]:
    """The texture of a head, its skin's colour, and the colour of its hair or of what covers it."""
    tone = between(rng, 0.0, len(SKIN) - 1.001)
    low = int(tone)
    skin = SKIN[low] + (tone - low) * (SKIN[low + 1] - SKIN[low])
    skin = np.clip(skin * (1.0 + 0.04 * rng.standard_normal(3)), 20, 255)
    fair = tone < 4.0
    hair = _hair_color(rng, fair)
    age = float(rng.random()) ** 2
    made_up = float(rng.random()) < 0.3
    canvas = Canvas(head, skin)
    _paint_complexion(rng, canvas, skin, age)
    if rng.random() < 0.33 and not made_up:
        _paint_beard(rng, canvas, parts, skin, hair)
    _paint_folds(canvas, parts, skin, age)
    _paint_nose(canvas, parts, skin)
    _paint_mouth(rng, canvas, parts, skin, made_up)
    _paint_eye_sockets(rng, canvas, parts, skin, made_up)
    _paint_eyes(canvas, parts, skin, IRIS[int(rng.integers(len(IRIS) if fair else 2))], made_up)
    _paint_brows(rng, canvas, parts, skin, hair)
    _paint_ears(canvas, skin)
    if wear.cloth:
        hair = some_color(rng)
    if wear.hair_y.max() > head.crown:
        _paint_hair(rng, canvas, wear, hair)
    return canvas.pixels, skin, hair


def _hair_color(rng: np.random.Generator, fair: bool) -> Color:
    hair = HAIR[int(rng.integers(7 if fair else 3))]  # fair hair goes with fair skin
    dice = float(rng.random())
    if dice < 0.15:  # grey
        hair = HAIR[7 + int(rng.integers(2))]
    elif dice < 0.19:  # dyed
        hair = rng.uniform(30, 220, 3)
    color: Color = np.clip(hair * between(rng, 0.8, 1.2), 8, 235)
    return color


def _paint_complexion(rng: np.random.Generator, canvas: Canvas, skin: Color, age: float) -> None:
    red = skin * np.array([1.0, 0.82, 0.8])
    cheeks = ellipse(np.array([[-0.52, 0.42], [0.52, 0.42], [0.0, canvas.head.nose_tip_y]]), 0.17, 0.15)
    canvas.fill(cheeks, red, between(rng, 0.1, 0.5), 9.0)
    moles = int(rng.integers(0, 4)) + (int(rng.integers(20, 60)) if rng.random() < 0.1 else 0)
    where = np.stack([rng.uniform(-0.7, 0.7, moles), rng.uniform(-0.5, 1.3, moles)], axis=1)
    for x, y in canvas.locate(where).astype(int).tolist():
        cv2.circle(canvas.pixels, (x, y), int(rng.integers(1, 3)), (skin * 0.68).tolist(), -1, cv2.LINE_AA)
    wrinkles = round(3 * age)
    if wrinkles:
        x = np.linspace(-0.35, 0.35, 9)
        lines = [np.stack([x, -0.55 - 0.13 * k + 0.02 * np.cos(7 * x + k)], axis=1) for k in range(wrinkles)]
        canvas.line(np.array(lines), skin * 0.6, 2, 0.5 * age, 1.2)


def _paint_folds(canvas: Canvas, parts: Features, skin: Color, age: float) -> None:
    strength = min(0.12 + 0.35 * age + 0.25 * max(canvas.head.smile, 0.0), 0.6)
    top = parts.nose[[4, 8]] + np.array([[-0.06, -0.05], [0.06, -0.05]])
    end = parts.lip_top[[0, -1]] + np.array([[-0.1, -0.02], [0.1, -0.02]])
    bow = 0.5 * (top + end) + np.array([[-0.06, 0.0], [0.06, 0.0]])
    t = np.linspace(0.0, 1.0, 8)[:, None]
    curves = (1 - t) ** 2 * top[:, None] + 2 * t * (1 - t) * bow[:, None] + t**2 * end[:, None]
    canvas.line(curves, skin * 0.5, 2, strength, 1.6)
    canvas.line(parts.lip_bottom[3:10] + np.array([0.0, 0.06]), skin * 0.5, 5, 0.3, 3.0)


def _paint_nose(canvas: Canvas, parts: Features, skin: Color) -> None:
    nostrils = ellipse(parts.nose[[5, 7]] + np.array([[-0.012, -0.02], [0.012, -0.02]]), 0.062, 0.027)
    canvas.fill(nostrils, skin * np.array([0.42, 0.34, 0.32]), 0.85, 1.0)
    rim = np.array([[0.0, -0.13], [0.03, -0.08], [0.025, -0.01], [-0.01, 0.02]])
    canvas.line(parts.nose[[4, 8], None] + rim * _MIRROR, skin * 0.5, 2, 0.55, 1.2)
    canvas.line(parts.nose[4:9] + np.array([0.0, 0.015]), skin * 0.45, 2, 0.5, 1.2)


def _paint_mouth(rng: np.random.Generator, canvas: Canvas, parts: Features, skin: Color, made_up: bool) -> None:
    opened = canvas.head.mouth_open
    lip = skin * np.array([0.88, 0.62, 0.62]) + np.array([8.0, 0.0, 4.0])
    if made_up:
        lip = 0.35 * lip + 0.65 * np.array([between(rng, 120, 220), between(rng, 20, 90), between(rng, 40, 110)])
    lip = np.clip(lip * between(rng, 0.9, 1.1), 0, 255)
    canvas.fill(np.concatenate([parts.lip_top, parts.mouth_top[::-1]]), lip * 0.86, 0.9, 0.7)
    canvas.fill(np.concatenate([parts.mouth_bottom, parts.lip_bottom[::-1]]), lip, 0.9, 0.7)
    shine = 0.5 * (parts.mouth_bottom[3:8] + parts.lip_bottom[4:9])
    canvas.line(shine, lip * 1.3 + 20, 4, 0.35, 2.0)
    if opened > 0.012:
        inner = np.concatenate([parts.mouth_top, parts.mouth_bottom[::-1]])
        canvas.fill(inner, np.array([70.0, 22.0, 22.0]) * between(rng, 0.4, 1.1))
        if rng.random() < 0.85:
            _paint_teeth(rng, canvas, parts)
        if opened > 0.22:
            tongue = parts.mouth_bottom[3:8] + np.array([0.0, -0.02])
            raised = tongue[::-1] - np.array([0.0, 0.3 * opened])
            canvas.fill(np.concatenate([tongue, raised]), np.array([165.0, 78.0, 78.0]), 0.8, 3.0)
    canvas.line(parts.mouth_top, skin * np.array([0.35, 0.22, 0.22]), 2, 0.8, 0.7)
    canvas.fill(ellipse(parts.lip_top[[0, -1]], 0.025, 0.025, 8), skin * 0.35, 0.7, 1.5)


def _paint_teeth(rng: np.random.Generator, canvas: Canvas, parts: Features) -> None:
    white = np.array([238.0, 230.0, 214.0]) * between(rng, 0.72, 1.0)
    top = parts.mouth_top[1:10]
    height = min(0.11, 0.85 * canvas.head.mouth_open)
    reach = np.minimum(top[:, 1] + height, parts.mouth_bottom[1:10, 1] - 0.01)
    edge = np.stack([top[:, 0], np.maximum(reach, top[:, 1])], axis=1)
    canvas.fill(np.concatenate([top, edge[::-1]]), white, 1.0, 0.6)
    gaps = canvas.head.mouth_shift + canvas.head.mouth_half * np.linspace(-0.6, 0.6, 7)
    ends = np.array([[[x, np.interp(x, c[:, 0], c[:, 1])] for c in (top, edge)] for x in gaps])
    canvas.line(ends, white * 0.6, 1, 0.5)


def _paint_eye_sockets(rng: np.random.Generator, canvas: Canvas, parts: Features, skin: Color, made_up: bool) -> None:
    upper = parts.upper_lids
    shade = skin * np.array([0.66, 0.58, 0.56])
    if made_up:
        shade = 0.5 * shade + 0.5 * np.array([between(rng, 40, 160), between(rng, 30, 120), between(rng, 50, 170)])
    canvas.fill(np.concatenate([upper, (upper - [0.0, 0.05])[:, ::-1]], axis=1), shade, 0.5, 4.0)
    canvas.line(upper[:, 1:12] - np.array([0.0, 0.055]), skin * 0.45, 2, 0.45, 1.0)
    canvas.line(parts.lower_lids[:, 2:11] + np.array([0.0, 0.05]), skin * 0.6, 4, between(rng, 0.1, 0.5), 2.5)


def _paint_eyes(canvas: Canvas, parts: Features, skin: Color, iris: Color, made_up: bool) -> None:
    upper, lower = parts.upper_lids, parts.lower_lids
    n = upper.shape[1]
    radius = 0.49 * canvas.head.eye_half
    around = parts.pupils[:, None] + radius * _EYE_SPOTS
    at = canvas.place(np.concatenate([upper, lower[:, ::-1], around], axis=1))
    window = canvas.window(at, 2.0)
    eyes = plain(_WHITE_OF_EYE, *window.shape[:2])
    white = np.array([250.0, 250.0, 250.0])
    for k, color in enumerate((iris * 0.45, iris * 1.1, np.array([8.0, 6.0, 6.0]), white)):
        spot = at[:, 2 * n + 20 * k : 2 * n + 20 * (k + 1)]
        cv2.fillPoly(eyes, list(spot), color.tolist(), cv2.LINE_AA, SHIFT)
    # The upper lid's shadow on the eyeball.
    cv2.polylines(eyes, list(at[:, :n]), False, (120, 104, 98), 5, cv2.LINE_AA, SHIFT)
    mask = np.zeros(window.shape[:2], dtype=np.uint8)
    cv2.fillPoly(mask, list(at[:, : 2 * n]), 255, cv2.LINE_AA, SHIFT)
    mix(window, cv2.blur(eyes, (3, 3)), mask)
    lash = np.array([28.0, 20.0, 18.0]) if made_up else skin * np.array([0.3, 0.22, 0.2])
    canvas.line(upper, lash, 3 if made_up else 2, 0.9, 0.6)
    canvas.line(lower, skin * np.array([0.5, 0.36, 0.34]), 1, 0.7, 0.6)


def _paint_brows(rng: np.random.Generator, canvas: Canvas, parts: Features, skin: Color, hair: Color) -> None:
    dark = hair.max() < 190 or rng.random() < 0.5
    color = np.clip(hair * 0.8, 5, 200) if dark else np.array([95.0, 75.0, 55.0])
    strength = between(rng, 0.45, 0.95)
    half = parts.brow_thickness[:, None] * np.array([0.0, 1.0])
    canvas.fill(np.concatenate([parts.brows - half, (parts.brows + half)[:, ::-1]], axis=1), color, strength, 1.5)
    # Single hairs.
    t = np.sort(rng.random(24))
    knots = np.linspace(0.0, 1.0, parts.brow_thickness.size)
    y = np.interp(t, knots, parts.brow_thickness) * rng.uniform(-0.9, 0.9, 24)
    roots = np.stack(
        [[np.interp(t, knots, brow[:, 0]), np.interp(t, knots, brow[:, 1]) + y] for brow in parts.brows]
    ).transpose(0, 2, 1)
    tips = roots + np.array([0.035, -0.02]) * _MIRROR
    ends = canvas.place(np.stack([roots, tips], axis=2).reshape(-1, 2, 2))
    mixed = 0.75 * (color * strength + skin * (1.0 - strength))
    cv2.polylines(canvas.pixels, list(ends), False, mixed.tolist(), 1, cv2.LINE_AA, SHIFT)


def _paint_beard(rng: np.random.Generator, canvas: Canvas, parts: Features, skin: Color, hair: Color) -> None:
    """Stubble, a moustache, a goatee or a full beard: toned skin, and hairs on it."""
    head = canvas.head
    x = np.linspace(-1.0, 1.0, 15)
    mask: Image = np.zeros((TEXTURE_V, TEXTURE_U), dtype=np.uint8)
    full = float(rng.random()) < 0.6
    if full:
        cheek = head.mouth_y - 0.12 - between(rng, 0.0, 0.25) * x**2 + 0.1 * np.cos(3 * x)
        rim = canvas.locate(np.stack([x * half_width(head, cheek), cheek], axis=1))
        corners = [
            [rim[-1, 0] + 40.0, rim[-1, 1]],
            [rim[-1, 0] + 40.0, TEXTURE_V],
            [rim[0, 0] - 40.0, TEXTURE_V],
            [rim[0, 0] - 40.0, rim[0, 1]],
        ]  # on around the jaw, where the face plane ends
        cv2.fillPoly(mask, fixed(np.concatenate([rim, corners])), 255, cv2.LINE_AA, SHIFT)
    elif rng.random() < 0.7:
        goatee = ellipse(np.array([0.0, head.chin - 0.16]), between(rng, 0.15, 0.33), 0.26)
        cv2.fillPoly(mask, [canvas.place(goatee)], 255, cv2.LINE_AA, SHIFT)
    if full or rng.random() < 0.75:
        upper = np.stack([head.mouth_half * between(rng, 0.9, 1.25) * x, head.nose_base_y + 0.05 + 0.12 * x**2], axis=1)
        moustache = np.concatenate([upper, (parts.lip_top - np.array([0.0, 0.01]))[::-1]])
        cv2.fillPoly(mask, [canvas.place(moustache)], 255, cv2.LINE_AA, SHIFT)
    top = TEXTURE_V // 2
    mask, window = cv2.stackBlur(mask[top:], (13, 13)), canvas.pixels[top:]
    density = between(rng, 0.25, 1.0)
    mix(window, 0.4 * hair + 0.3 * skin, mask, 0.75 * density)
    grain = cv2.blur(cut(rng, noise_banks()[0], *mask.shape[::-1]), (1, 4))
    hairs = 255 * ((grain > 145 - 40 * density) & (mask > 90)).astype(np.uint8)
    mix(window, 0.85 * hair, hairs, between(rng, 0.45, 0.9))


def _paint_ears(canvas: Canvas, skin: Color) -> None:
    row = canvas.locate(np.array([0.0, 0.21]))[1]
    for side in (-1.0, 1.0):
        if side * canvas.head.yaw > 0.4:  # behind the head
            continue
        column = 0.5 * (TEXTURE_U - 1) + side * EAR_OUT
        shell = ellipse(np.array([column, row]), 8.5, 37.0)
        hollow = ellipse(np.array([column - 2.5 * side, row + 6.0]), 5.0, 23.0)
        at = np.rint(np.concatenate([shell, hollow]) * UNIT).astype(np.int32)
        window = canvas.window(at, 4.0)
        mask = np.zeros(window.shape[:2], dtype=np.uint8)
        cv2.fillPoly(mask, [at[:20]], 255, cv2.LINE_AA, SHIFT)
        mask //= 4
        cv2.fillPoly(mask, [at[20:]], 165, cv2.LINE_AA, SHIFT)
        mix(window, skin * np.array([0.62, 0.42, 0.4]), cv2.blur(mask, (3, 3)))


def _paint_hair(rng: np.random.Generator, canvas: Canvas, wear: Wear, hair: Color) -> None:
    line = hair_line(wear, COLUMN_THETA)
    if not wear.cloth:
        line = line + 0.1 * cv2.blur(rng.standard_normal((1, TEXTURE_U)).astype(np.float32), (4, 1))[0]
    y = v_to_y(canvas.head, ROW_V)
    rows = int(np.searchsorted(y, line.max()))
    mask = (y[:rows, None] < line[None]).view(np.uint8)
    cv2.copyTo(hair_texture(rng, wear, hair, TEXTURE_U, rows), mask, canvas.pixels[:rows])


def hair_texture(rng: np.random.Generator, wear: Wear, hair: Color, width: int, height: int) -> Image:
    """(height, width, 3) hair that hangs down, curls, or cloth."""
    grain, _, streaks = noise_banks()
    if wear.cloth:
        return colored(cut(rng, grain, width, height), hair, 0.75, 1.25)
    return colored(cut(rng, grain if wear.puff > 0.25 else streaks, width, height), hair + 4.0, 0.3, 1.7)
