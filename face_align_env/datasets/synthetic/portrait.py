"""The picture of a synthetic person: the head's surface turned into pixels, lit, and what is around it.

The picture is made without a renderer: see :func:`rasterize`. Colours are RGB, 0 to 255.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from face_align_env.datasets.synthetic.canvas import (
    SHIFT,
    TEXTURE_U,
    TEXTURE_V,
    Color,
    Image,
    colored,
    cut,
    fixed,
    mask_of,
    mix,
    noise_banks,
    plain,
    some_color,
    u_to_theta,
    v_to_y,
)
from face_align_env.datasets.synthetic.head import (
    EAR_THETA,
    IMAGE_SIZE,
    Array,
    Features,
    Head,
    View,
    between,
    half_width,
    surface_grid,
)
from face_align_env.datasets.synthetic.skin import hair_texture, paint_skin
from face_align_env.datasets.synthetic.wear import Wear, glasses_depth, hair_line, lens_outlines

GRID_U, GRID_V = 96, 104  # vertices around and along the head
GRID_THETA, GRID_ROWS = u_to_theta(np.linspace(0.0, 1.0, GRID_U)), np.linspace(0.0, 1.0, GRID_V)
_NECK_ACROSS = np.linspace(-1.0, 1.0, 32)
_NECK_OUT = np.sqrt(1.0 - _NECK_ACROSS**2)
_NECK_SHADOW = np.interp(np.linspace(0.0, 1.0, 32), [0.0, 0.4, 0.75], [0.4, 0.5, 0.85])[:, None, None]
_ONE = 100.0  # the light's byte that leaves a colour as it is


@dataclass(frozen=True)
class Raster:
    """Which point of the surface each pixel of an upright window shows.

    :param u: (H, W) grid column, ``v``: (H, W) grid row
    :param coverage: (H, W) share of the pixel that the head covers, 0 to 255
    :param origin: (2,) unrolled pixel of the window's corner
    """

    u: Array
    v: Array
    coverage: Image
    origin: Array


def _first_seen(coordinate: Array, start: float, count: int) -> tuple[Array, Array]:
    """Where a curve that starts at its near end is met, seen along lines.

    A curve on a turned head runs from its near silhouette to its far one; where it turns back (behind the
    nose), what is in view are the points that lie farther than all before them.

    :param coordinate: (R, N) position of each point of R curves across the lines of sight
    :param start: the first of ``count`` lines, one pixel apart
    :return: (R, count) fractional index of the point in view, and (R, count) how far outside of the curve the line
        passes
    """
    rows, n = coordinate.shape
    index = np.arange(n)
    first = coordinate.argmin(axis=1)[:, None]
    low = coordinate.min(axis=1)[:, None]
    running = np.where(index < first, low, coordinate)
    np.maximum.accumulate(running, axis=1, out=running)
    last = running.argmax(axis=1)[:, None]
    high = running[:, -1:]
    # As the lines are evenly spaced, how many of them are before each point is known without a search. Between
    # two points, the index is a linear function of the line's number.
    exact = running.astype(np.float64)
    exact -= start
    before = np.zeros((rows, n + 2), dtype=np.intp)
    np.copyto(before[:, 1:-1], np.minimum(np.maximum(np.ceil(exact), 0.0), count), casting="unsafe")
    before[:, -1] = count
    slope: Array = np.zeros((rows, n + 1))
    offset: Array = np.empty((rows, n + 1))
    # No line is between two points at one place: what is found for them there is not used.
    np.divide(1.0, np.maximum(exact[:, 1:] - exact[:, :-1], 1e-9), out=slope[:, 1:-1])
    np.subtract(index[:-1], exact[:, :-1] * slope[:, 1:-1], out=offset[:, 1:-1])
    offset[:, :1], offset[:, -1:] = first, last
    times = (before[:, 1:] - before[:, :-1]).ravel()
    line = np.arange(count, dtype=np.float64)
    found = slope.ravel().repeat(times).reshape(rows, count)
    found *= line
    found += offset.ravel().repeat(times).reshape(rows, count)
    # Its distance from the middle of the curve, less half of the curve's length.
    outside = np.abs((line + start).astype(np.float32) - 0.5 * (low + high))
    outside -= 0.5 * (high - low)
    return found.astype(np.float32), outside


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
    (x0, y0), (x1, y1) = low.tolist(), high.tolist()
    wide, tall = x1 - x0 + 1, y1 - y0 + 1
    # Rows that are outside of the picture, but for the next to its edge, cannot be seen.
    in_picture = np.flatnonzero((flat[1].max(axis=1) >= low[1]) & (flat[1].min(axis=1) <= high[1]))
    top, bottom = max(int(in_picture[0]) - 1, 0), int(in_picture[-1]) + 2
    flat = flat[:, top:bottom]
    rows = flat.shape[1]
    if head.yaw >= 0:  # the left of the picture is nearer
        u, beside = _first_seen(flat[0], x0, wide)
    else:
        u, beside = _first_seen(-flat[0, :, ::-1], -x1, wide)
        u, beside = GRID_U - 1 - u[:, ::-1], beside[:, ::-1]
    u, beside = np.ascontiguousarray(u), np.ascontiguousarray(beside)
    row = np.repeat(np.arange(rows, dtype=np.float32), wide).reshape(rows, wide)
    height = cv2.transpose(cv2.remap(flat[1], u, row, cv2.INTER_LINEAR))
    if head.pitch <= 0:  # looks down: the crown is nearer
        v, above = _first_seen(height, y0, tall)
    else:
        v, above = _first_seen(-height[:, ::-1], -y1, tall)
        v, above = rows - 1 - v[:, ::-1], np.ascontiguousarray(above[:, ::-1])
    v, above = cv2.transpose(np.ascontiguousarray(v)), cv2.transpose(above)
    column: Array = np.empty((tall, wide), dtype=np.float32)
    column[:] = np.arange(wide)
    u, beside = cv2.split(cv2.remap(cv2.merge([u, beside]), column, v, cv2.INTER_LINEAR))
    outside = cv2.max(beside, above)
    coverage = cv2.addWeighted(outside, -255.0, outside, 0.0, 127.0, dtype=cv2.CV_8U)
    return Raster(u, v + np.float32(top), coverage, low)


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


def light_surface(rng: np.random.Generator, view: View, light: Light, grid: Array) -> Image:
    """(GRID_V, GRID_U, 4) what the texture's RGB is multiplied by, times _ONE, and the highlight that is added."""
    seen = (view.rotation.astype(np.float32) @ grid.reshape(3, -1)).reshape(grid.shape)
    along = np.empty_like(seen)
    along[:, :, 1:-1] = seen[:, :, 2:] - seen[:, :, :-2]
    along[:, :, 0], along[:, :, -1] = along[:, :, 1], along[:, :, -2]
    down = np.empty_like(seen)
    down[:, 1:-1] = seen[:, 2:] - seen[:, :-2]
    down[:, 0], down[:, -1] = down[:, 1], down[:, -2]
    normal = np.empty_like(seen)
    for k, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):
        np.multiply(along[i], down[j], out=normal[k])
        normal[k] -= along[j] * down[i]
    normal /= np.sqrt(np.einsum("kij,kij->ij", normal, normal)) + np.float32(1e-9)
    half = light.direction + np.array([0.0, 0.0, 1.0])
    half /= np.sqrt(half @ half)
    toward = np.array([light.direction, half], dtype=np.float32)
    direct, glance = np.maximum(toward @ normal.reshape(3, -1), 0.0).reshape(2, *seen.shape[1:])
    # Hollows get less light from around: compare the surface with its own surroundings.
    z = grid[2]
    hollow = cv2.addWeighted(z, 2.2, cv2.stackBlur(z, (21, 21)), -2.2, 1.0)
    hollow = np.minimum(np.maximum(hollow, 0.55), 1.12)
    mottle = cut(rng, noise_banks()[1], GRID_U, GRID_V).astype(np.float32)
    hollow *= 1.0 + (mottle - 128.0) * np.float32(0.04 / 45.0)
    direct *= hollow
    # Light from around comes from above more than from below.
    ambient = hollow * (0.9 - 0.16 * normal[1])
    planes = [
        cv2.addWeighted(ambient, _ONE * a, direct, _ONE * d, 0.0)
        for a, d in zip(light.ambient, light.color, strict=True)
    ]
    for _ in range(4):  # to the power of 16
        glance *= glance
    shone: Image = cv2.convertScaleAbs(cv2.merge([*planes, (255.0 * light.shine) * glance]))
    return shone


def puffed(head: Head, wear: Wear, grid: Array, theta: Array, y: Array) -> Array:
    """The surface with the hair's thickness."""
    below = (4.0 * (hair_line(wear, theta) - 0.04)).astype(np.float32) - (4.0 * y[:, None]).astype(np.float32)
    depth: Array = np.float32(wear.puff) * np.sqrt(np.minimum(np.maximum(below, 0.0), 1.0))
    # The hair's edge is a slope inside of its colour's, or skin would be stretched up that slope.
    depth = cv2.blur(cv2.erode(depth, np.ones((1, 5), dtype=np.uint8)), (3, 1))
    up = np.clip((head.widest - 0.3 - y) / (head.widest - 0.3 - head.crown), 0.0, 1.0)[:, None] ** 2
    grid = grid.copy()
    grid[0] += depth * np.sin(theta).astype(np.float32)
    grid[1] -= depth * up.astype(np.float32)
    grid[2] += depth * np.cos(theta).astype(np.float32)
    return grid


def draw_person(
    rng: np.random.Generator, picture: Image, head: Head, parts: Features, view: View, wear: Wear, light: Light
) -> None:
    """Draw a person, from behind to before, into an (IMAGE_SIZE, IMAGE_SIZE, 3) picture."""
    texture, skin, hair = paint_skin(rng, head, parts, wear)
    # Cameras expose for the face, though not fully.
    exposure = float(np.clip((140.0 / (skin * (light.ambient + 0.6 * light.color)).mean()) ** 0.45, 0.75, 1.6))
    light = replace(light, color=exposure * light.color, ambient=exposure * light.ambient)
    theta, y = GRID_THETA, v_to_y(head, GRID_ROWS)
    ears_hidden = float(hair_line(wear, np.array(EAR_THETA))) > 0.4
    grid = surface_grid(replace(head, ear=0.05) if ears_hidden else head, theta, y)
    if wear.puff > 0:
        grid = puffed(head, wear, grid, theta, y)
    flat, _ = view.unrolled(grid)
    raster = rasterize(head, view, flat)
    lit = cv2.remap(light_surface(rng, view, light, grid), raster.u, raster.v, cv2.INTER_LINEAR)
    scale_u, scale_v = (TEXTURE_U - 1) / (GRID_U - 1), (TEXTURE_V - 1) / (GRID_V - 1)
    # With a fourth channel, OpenCV is faster; it becomes the opacity.
    texture = cv2.cvtColor(texture, cv2.COLOR_RGB2RGBA)
    layers = cv2.remap(texture, raster.u * np.float32(scale_u), raster.v * np.float32(scale_v), cv2.INTER_LINEAR)
    layers = cv2.multiply(layers, lit, scale=1.0 / _ONE)
    layers = cv2.add(layers, cv2.cvtColor(cv2.extractChannel(lit, 3), cv2.COLOR_GRAY2RGBA))
    cv2.insertChannel(raster.coverage, layers, 3)
    draw_body(rng, picture, head, view, wear, light, skin, hair)
    turn = np.column_stack([view.roll, view.roll @ raster.origin + view.shift])
    layers = cv2.warpAffine(layers, turn, (IMAGE_SIZE, IMAGE_SIZE))
    mix(picture, cv2.cvtColor(layers, cv2.COLOR_RGBA2RGB), cv2.extractChannel(layers, 3))
    draw_accessories(rng, picture, head, view, wear, light, skin)


def draw_body(
    rng: np.random.Generator, picture: Image, head: Head, view: View, wear: Wear, light: Light, skin: Color, hair: Color
) -> None:
    """Draw what is behind the head: falling hair, shoulders, neck."""
    top = view.project(np.array([[0.0, 0.75, -0.2]]))[0]
    # The body hangs straighter than the head leans.
    lean = 0.35 * head.roll
    axes = view.scale * np.array([[np.cos(lean), np.sin(lean)], [-np.sin(lean), np.cos(lean)]])
    half, length = between(rng, 0.5, 0.7) * head.half_width, between(rng, 1.2, 1.65)
    hair_behind = rng.random() < 0.5
    if wear.fall and hair_behind:
        _draw_falling_hair(rng, picture, head, view, wear, light, hair)
    _draw_neck(picture, top, axes, half, length, light, skin)
    _draw_shoulders(rng, picture, top + length * axes[1], axes, half, light)
    if wear.fall and not hair_behind:
        _draw_falling_hair(rng, picture, head, view, wear, light, hair)
        _draw_neck(picture, top, axes, half, length, light, skin, flares=False)


def _draw_neck(
    picture: Image,
    top: Array,
    axes: Array,
    half: float,
    length: float,
    light: Light,
    skin: Color,
    flares: bool = True,
) -> None:
    """A cylinder with the chin's shadow; ``axes`` are pixels per half face-width across and down the body.

    :param flares: into the shoulders; otherwise it narrows between strands of hair
    """
    toward = np.maximum(light.direction[0] * _NECK_ACROSS + light.direction[2] * _NECK_OUT, 0.0)
    lit = (light.ambient * 0.8 + toward[:, None] * light.color) * skin
    tile = np.minimum(np.maximum(_NECK_SHADOW * lit, 0.0), 255.0).astype(np.uint8)
    down = length * np.array([0.0, 0.35, 0.6, 0.8, 0.95, 1.15])
    wide = half * np.array([1.05, 0.97, 1.0, 1.1, 1.4, 2.4] if flares else [1.05, 0.9, 0.85, 0.7, 0.4, 0.0])
    outline = np.concatenate([np.stack([-wide, down], axis=1), np.stack([wide, down], axis=1)[::-1]]) @ axes + top
    x0, y0 = np.clip(outline.min(axis=0) - 1, 0, IMAGE_SIZE - 2).astype(int).tolist()
    x1, y1 = np.clip(outline.max(axis=0) + 2, [x0 + 2, y0 + 2], IMAGE_SIZE).astype(int).tolist()
    window = picture[y0:y1, x0:x1]
    corners = np.array([[-half, 0.0], [half, 0.0], [-half, length]]) @ axes + top - [x0, y0]
    # What is beside the tile continues its edges; OpenCV is slow to do so itself.
    tile = cv2.copyMakeBorder(tile, 2, 10, 28, 28, cv2.BORDER_REPLICATE)
    source = np.array([[28, 2], [59, 2], [28, 33]], dtype=np.float32)
    warp = cv2.getAffineTransform(source, corners.astype(np.float32))
    placed = cv2.warpAffine(tile, warp, window.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    mix(window, placed, mask_of(outline - [x0, y0], *window.shape[:2]))


def _draw_shoulders(
    rng: np.random.Generator, picture: Image, base: Array, axes: Array, half: float, light: Light
) -> None:
    wide, slope, collar = between(rng, 2.0, 2.9), between(rng, 0.4, 0.9), half * between(rng, 1.25, 1.7)
    t = np.linspace(-1.0, 1.0, 9)
    depth = between(rng, 0.1, 0.7) * (1.0 - np.abs(t) ** between(rng, 1.0, 3.0))  # of the neckline
    shoulder = np.array([[0.7 * wide, 0.45 * slope], [wide, slope + 0.3], [1.1 * wide, 4.0]])
    shape = np.concatenate(
        [np.stack([collar * t, depth - 0.12], axis=1), shoulder, shoulder[::-1] * np.array([-1.0, 1.0])]
    )
    lit = np.clip(light.ambient + 0.5 * light.color, 0.3, 1.1)
    cloth = plain(some_color(rng) * lit, IMAGE_SIZE, IMAGE_SIZE)
    if rng.random() < 0.35:
        second, step, lean = (some_color(rng) * lit).tolist(), int(rng.integers(8, 30)), int(60 * slope)
        for x in range(-IMAGE_SIZE, 2 * IMAGE_SIZE, step):
            cv2.line(cloth, (x, IMAGE_SIZE), (x + lean, 0), second, step // 3)
    mix(picture, cloth, mask_of(base + shape @ axes, IMAGE_SIZE, IMAGE_SIZE))


def _draw_falling_hair(
    rng: np.random.Generator, picture: Image, head: Head, view: View, wear: Wear, light: Light, hair: Color
) -> None:
    y = np.linspace(head.crown + 0.4, wear.fall, 9)
    width = half_width(head, np.minimum(y, head.widest)) + 1.1 * wear.puff
    width = width + between(rng, -0.25, 0.35) * np.clip((y - 0.3) / 2.0, 0.0, 1.0) + rng.uniform(-0.05, 0.05, 9)
    width[-1] *= 0.7
    left, right = np.stack([-width, y, np.full(9, -0.2)], axis=1), np.stack([width, y, np.full(9, -0.2)], axis=1)
    outline = view.project(np.concatenate([left, right[::-1]]))
    mask = mask_of(outline, IMAGE_SIZE, IMAGE_SIZE)
    shade = np.clip(light.ambient + 0.3 * light.color, 0.2, 1.0).mean()
    texture = hair_texture(rng, wear, hair * 0.75 * shade, IMAGE_SIZE, IMAGE_SIZE)
    mix(picture, texture, mask)


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
    own = skin * between(rng, 0.85, 1.1) if wear.occluder_kind == "hand" else some_color(rng)
    color = np.clip(own * lit, 0, 255)
    surface = colored(cut(rng, noise_banks()[1], IMAGE_SIZE, IMAGE_SIZE), color, 0.8, 1.2)
    for polygon in wear.occluders:
        mix(picture, surface, mask_of(polygon, IMAGE_SIZE, IMAGE_SIZE))
        edge = (color * 0.6).tolist()
        cv2.polylines(picture, fixed(polygon), True, edge, 1, cv2.LINE_AA, SHIFT)


def _draw_glasses(
    rng: np.random.Generator, picture: Image, head: Head, view: View, wear: Wear, lenses: list[Array]
) -> None:
    frame = rng.uniform(5, 70, 3) if rng.random() < 0.7 else rng.uniform(40, 220, 3)
    tint = rng.uniform(5, 60, 3) if wear.dark > 0.5 else np.array([200.0, 215.0, 225.0])
    thick = int(rng.integers(1, 5))
    mix(picture, tint, mask_of(np.array(lenses), IMAGE_SIZE, IMAGE_SIZE), wear.dark)
    half_x, half_y, _ = wear.glasses or (0.0, 0.0, 0.0)
    x = np.linspace(-1.0, 1.0, 5) * (head.eye_x + 0.015 - half_x)
    bridge = np.stack([x, np.full(5, -0.25 * half_y), glasses_depth(head, x)], axis=1)
    pieces = fixed(view.project(bridge))
    # The far temple is behind the face.
    for sign in (-1.0, 1.0):
        if sign * head.yaw < 0.12:
            out = sign * (head.eye_x + 0.015 + half_x)
            ear = sign * (head.half_width + 0.02)
            bow = [[out, -0.08, float(glasses_depth(head, np.array(out)))], [ear, -0.08, 0.7], [ear, -0.05, 0.05]]
            pieces += fixed(view.project(np.array(bow)))
    cv2.polylines(picture, pieces, False, frame.tolist(), max(thick - 1, 1), cv2.LINE_AA, SHIFT)
    cv2.polylines(picture, fixed(np.array(lenses)), True, frame.tolist(), thick, cv2.LINE_AA, SHIFT)
