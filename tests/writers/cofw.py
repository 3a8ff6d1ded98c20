"""COFW: MATLAB files of images, points with occlusion flags and boxes, in version 7.3 (as published) and 5."""

from __future__ import annotations

import h5py
import numpy as np
import scipy.io

# A face in COFW's order, 40 pixels wide, in whole pixels.
COFW_FACE = np.array(
    [
        (-20, -18), (20, -18), (-6, -18), (6, -18), (-13, -22), (-13, -18), (13, -22), (13, -18),
        (-17, -10), (17, -10), (-7, -10), (7, -10), (-12, -12), (-12, -8), (12, -12), (12, -8),
        (-12, -10), (12, -10), (-6, 4), (6, 4), (0, 2), (0, 6), (-9, 15), (9, 15),
        (0, 13), (0, 14), (0, 16), (0, 19), (0, 28),
    ],
    dtype=np.float64,
)  # fmt: skip


def cofw_landmarks(split, i):
    """(29, 2) points of row i, pixels from 0."""
    return COFW_FACE * (1 + i / 32) + np.array([46.5 if split == "train" else 48.25, 38.0]) + i / 4


def cofw_box(split, i):
    """(4,) x0, y0, x1, y1 of row i, pixels from 0."""
    points = cofw_landmarks(split, i)
    return np.concatenate([points.min(axis=0) - 3.5, points.max(axis=0) + 1.25])


def cofw_occluded(split, i):
    """(29,) bool: another fifth of the points in each row, and in the test split one point more."""
    return (np.arange(29) % 5 == i % 5) | (np.arange(29) == (28 if split == "test" else -1))


def cofw_image(split, i, color=True):
    """(80 + i, 100 + 2 i, 3) uint8 of row i: noise, so that each pixel has one place; (H, W) where it is grey.

    Of the files in colour, too, image 1 is grey, as some of the published ones are.
    """
    size = (80 + i, 100 + 2 * i, 3)
    image = np.random.default_rng([split == "test", i]).integers(0, 256, size, dtype=np.uint8)
    return image if color and i != 1 else image[:, :, 0]


def cofw_variables(split, n, color=True):
    """The variables of one file: images (a list), points and boxes, as MATLAB shows them, from 1."""
    rows = range(n)
    points = [cofw_landmarks(split, i) + 1 for i in rows]
    boxes = [cofw_box(split, i) for i in rows]
    ending = "Tr" if split == "train" else "T"
    return {
        f"Is{ending}": [cofw_image(split, i, color) for i in rows],
        f"phis{ending}": np.stack([[*p[:, 0], *p[:, 1], *cofw_occluded(split, i)] for i, p in enumerate(points)]),
        f"bboxes{ending}": np.stack([[*(box[:2] + 1), *(box[2:] - box[:2])] for box in boxes]),
    }


def write_cofw(root, n_train=4, n_test=3, color=True, version="7.3", compressed=True):
    """Both files; ``compressed`` concerns version 5 (MATLAB 7 compresses, MATLAB 6 does not) and 7.3 alike."""
    root.mkdir(parents=True, exist_ok=True)
    for split, n in (("train", n_train), ("test", n_test)):
        path = root / f"COFW_{split}{'_color' if color else ''}.mat"
        write_mat(path, cofw_variables(split, n, color), version, compressed)
    return root


def write_mat(path, variables, version="7.3", compressed=True):
    """A ``.mat`` file; a variable that is a list becomes a column of cells."""
    if version == "5":
        scipy.io.savemat(path, {k: _cells(v) for k, v in variables.items()}, do_compression=compressed)
        return
    with h5py.File(path, "w", userblock_size=512) as file:
        cells = file.create_group("#refs#")
        for name, value in variables.items():
            if isinstance(value, list):
                references = [_write_hdf(cells, f"{name}{i}", v, compressed).ref for i, v in enumerate(value)]
                data = file.create_dataset(name, (1, len(value)), dtype=h5py.ref_dtype)
                data[0, :] = references
                data.attrs["MATLAB_class"] = np.bytes_("cell")
            else:
                _write_hdf(file, name, value, compressed)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116) + bytes(8) + b"\x00\x02IM")


def _cells(value):
    if not isinstance(value, list):
        return value
    cells = np.empty((len(value), 1), dtype=object)
    for i, item in enumerate(value):
        cells[i, 0] = item
    return cells


def _write_hdf(group, name, value, compressed):
    """One array, transposed as MATLAB writes it; a string is one of 16-bit characters, an empty array its shape."""
    matlab_class = "char" if isinstance(value, str) else str(np.asarray(value).dtype).replace("float64", "double")
    if isinstance(value, str):
        value = np.frombuffer(value.encode("utf-16-le"), dtype=np.uint16)[None]
    value = np.asarray(value)
    if value.size:
        data = group.create_dataset(name, data=value.T, compression="gzip" if compressed else None)
    else:
        data = group.create_dataset(name, data=np.array(value.shape, dtype=np.uint64))
        data.attrs["MATLAB_empty"] = np.uint8(1)
    data.attrs["MATLAB_class"] = np.bytes_(matlab_class)
    return data
