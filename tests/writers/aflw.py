"""AFLW in the 19-point protocol: ``AFLWinfo_release.mat``, and images in Flickr's folders."""

from __future__ import annotations

import numpy as np

from writers.cofw import write_mat
from writers.images import write_image

# A face in AFLW's order, 40 pixels wide, in whole pixels.
AFLW_FACE = np.array(
    [
        (-20, -18), (-13, -21), (-6, -18), (6, -18), (13, -21), (20, -18),
        (-17, -10), (-12, -11), (-7, -10), (7, -10), (12, -11), (17, -10),
        (-6, 4), (0, 2), (6, 4), (-9, 15), (0, 15), (9, 15), (0, 28),
    ],
    dtype=np.float64,
)  # fmt: skip

IMAGE_SIZE = (80, 100)  # height, width


def aflw_landmarks(i):
    """(19, 2) points of row i (from 0), pixels, before some are taken away."""
    return AFLW_FACE * (1 + i / 32) + np.array([46.0, 38.0]) + i / 4


def aflw_box(i):
    """(4,) x0, y0, x1, y1 of row i, pixels; where i is 4, 12, ... the chin is outside."""
    points = aflw_landmarks(i)
    return np.concatenate([points.min(axis=0) - 3, points.max(axis=0) + np.array([2, -6 if i % 8 == 4 else 1])])


def aflw_hidden(i):
    """The points of row i that are not annotated: one in every third row."""
    return [i % 19] if i % 3 == 0 else []


def aflw_name(i):
    """The image of row i; rows 0 and 1 are two faces of one photo."""
    number = max(i, 1)
    return f"{(0, 2, 3)[number % 3]}/image{number:05d}.jpg"


def aflw_occluded(i):
    """The points of row i that are annotated and not visible: one in row 1, 8, 15, ..."""
    return [(i + 5) % 19] if i % 7 == 1 else []


def aflw_variables(n=8):
    """The variables of the file as MATLAB shows them; a point that is not annotated is (0, 0), NaN or negative.

    The order of the protocol is n - 2, n - 1, n, 1, 2, ..., n - 3, from 1.
    """
    points = np.stack([aflw_landmarks(i) for i in range(n)])
    mask = np.ones((n, 19), dtype=np.uint8)
    for i in range(n):
        for k in aflw_hidden(i):
            points[i, k] = (0.0, np.nan, -4.0)[i // 3 % 3]
            mask[i, k] = i // 3 % 3 == 2  # what is negative is not annotated, whatever the mask says
        mask[i, aflw_occluded(i)] = 0
    boxes = np.stack([aflw_box(i) for i in range(n)])
    return {
        "nameList": [aflw_name(i) for i in range(n)],
        "data": np.concatenate([points[:, :, 0], points[:, :, 1]], axis=1),
        "mask_new": mask,
        "bbox": boxes[:, [0, 2, 1, 3]],
        "ra": np.roll(np.arange(1.0, n + 1), 3)[None],
    }


def aflw_colour(name):
    """The RGB colour of the image of that name."""
    number = int("".join(c for c in name.rpartition("/")[2] if c.isdigit()))
    return 40 + 20 * number % 200, 120, 200 - 10 * number % 200


def write_aflw(root, n=8, folder="aflw/data/flickr", version="5", **variables):
    """The file and its images.

    :param folder: where the images go
    :param variables: what to write in place of :func:`aflw_variables`; None leaves a variable out
    """
    content = {k: v for k, v in (aflw_variables(n) | variables).items() if v is not None}
    root.mkdir(parents=True, exist_ok=True)
    write_mat(root / "AFLWinfo_release.mat", content, version)
    for name in sorted({aflw_name(i) for i in range(n)}):
        write_image(root / folder / name, aflw_colour(name), IMAGE_SIZE)
    return root
