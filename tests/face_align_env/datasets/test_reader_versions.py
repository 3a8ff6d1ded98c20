"""What a reader gives belongs to its version: prepared faces on disk are kept under it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from writers.every import WRITERS

from face_align_env.datasets import REGISTRY, dataset_class, load_dataset
from face_align_env.datasets.aflw import AFLW

# name -> reader_version, and then the means over the first two faces to train on of landmarks, boxes, visible, pixels.
KNOWN = {
    "synthetic": (1, 133.4487, 128.8767, 0.9485, 98.8292),
    "300w": (1, 30.8130, 30.1302, 1.0000, 116.6667),
    "cofw": (1, 40.3438, 42.7734, 0.7931, 127.2114),
    "aflw": (1, 39.6789, 44.6758, 0.9737, 137.8333),
    "ytf": (1, 28.9638, 29.8806, 1.0000, 116.6667),
    "pts": (1, 28.7918, 29.8927, 1.0000, 116.6667),
}


def means(name, root):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        faces = [load_dataset(name, "train", root)[i] for i in range(2)]
    arrays = ([face.landmarks for face in faces], [face.box for face in faces], [face.visible for face in faces])
    return [float(np.mean(values)) for values in (*arrays, [face.image.mean() for face in faces])]


@pytest.mark.parametrize("name", REGISTRY)
def test_a_reader_that_reads_otherwise_has_another_version(name, tmp_path, monkeypatch):
    monkeypatch.setattr(AFLW, "_NUM_TRAIN", 5)
    if name in WRITERS:
        WRITERS[name](tmp_path)
    version, *known = KNOWN[name]
    found = means(name, tmp_path if name in WRITERS else None)
    advice = f"{found}: raise the class's reader_version, and write both here, or nobody's prepared faces are made anew"
    assert dataset_class(name).reader_version == version, advice
    # Decoders of JPEG differ by a grey level here and there.
    assert found == pytest.approx(known, rel=2e-3), advice
