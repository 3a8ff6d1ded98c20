"""300W as it is published: images with .pts files in the folders of five datasets, and a detector's boxes."""

from __future__ import annotations

import numpy as np
import scipy.io

from writers.images import write_pair

FOLDERS = ("afw", "helen/trainset", "helen/testset", "lfpw/trainset", "lfpw/testset", "ibug")
PRIVATE_FOLDERS = ("300W/01_Indoor", "300W/02_Outdoor")
STEMS = ("image_0001", "image_0002", "image_092 _01")  # IBUG has a blank in the name of one face


def write_300w(root, folders=FOLDERS):
    """Three faces in each folder; LFPW and the private split are .png, the others .jpg."""
    for folder in folders:
        suffix = ".png" if "lfpw" in folder.lower() or "door" in folder.lower() else ".jpg"
        for stem in reversed(STEMS):
            write_pair(root / folder, stem, suffix)
    return root


def write_boxes(path, boxes):
    """``bounding_boxes_*.mat`` as published: a cell array of structs; boxes: image name -> (4,), from 1."""
    cells = np.empty((1, len(boxes)), dtype=object)
    for i, (name, box) in enumerate(boxes.items()):
        cells[0, i] = {
            "imgName": name,
            "bb_detector": np.asarray([box], dtype=np.float64),
            "bb_ground_truth": np.asarray([[1.0, 2.0, 3.0, 4.0]]),
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"bounding_boxes": cells})
