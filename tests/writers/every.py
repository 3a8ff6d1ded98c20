"""Each dataset that is read from disk, and what writes a small copy of it into a folder."""

from __future__ import annotations

from writers.aflw import write_aflw
from writers.cofw import write_cofw
from writers.pts import write_pts_folder
from writers.w300 import FOLDERS, PRIVATE_FOLDERS, write_300w
from writers.ytf import write_ytf

WRITERS = {
    "300w": lambda root: write_300w(root, (*FOLDERS, *PRIVATE_FOLDERS)),
    "cofw": write_cofw,
    "aflw": write_aflw,
    "ytf": write_ytf,
    "pts": write_pts_folder,
}
