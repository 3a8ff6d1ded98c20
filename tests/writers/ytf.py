"""YouTube Faces as in its public repository: two folders of frames, each with a .csv file of landmarks."""

from __future__ import annotations

import csv

from writers.images import shape_of, write_image

TRAIN_PEOPLE, TEST_PEOPLE = ("Ada_Lovelace", "Max_Born"), ("Alan_Turing", "Paul_Dirac")


def write_csv(path, shapes):
    """``*_frames_keypoints.csv``; shapes: file name -> (68, 2)."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", *range(136)])
        writer.writerows([name, *shape.ravel().tolist()] for name, shape in shapes.items())


def write_ytf(root, shapes=None):
    """Two folders with one frame of the same people in each; shapes: ``training/x.jpg`` -> (68, 2)."""
    if shapes is None:
        people = TRAIN_PEOPLE + TEST_PEOPLE
        names = [f"training/{p}_{n}.jpg" for p in people for n in ("02", "31")]
        names += [f"test/{p}_00.jpg" for p in people]
        shapes = {name: shape_of(name) for name in names}
    for folder in ("training", "test"):
        inside = {name.split("/")[1]: shape for name, shape in shapes.items() if name.startswith(folder + "/")}
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in inside:
            write_image(root / folder / name)
        write_csv(root / f"{folder}_frames_keypoints.csv", inside)
    return root
