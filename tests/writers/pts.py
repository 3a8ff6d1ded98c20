"""A folder of one's own images with .pts files."""

from __future__ import annotations

from writers.images import write_pair


def write_pts_folder(root):
    """Three faces to train on and one to test, in sub-folders of those names."""
    for folder, stem in (("train", "b"), ("train", "a"), ("train/more", "c.d"), ("test", "a")):
        write_pair(root / folder, stem)
    return root
