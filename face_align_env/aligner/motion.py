"""How a face has moved from one frame of a video to the next, by the optical flow of its landmarks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from face_align_env.crops import crop_transform, cut, invert_transform, transform_points
from face_align_env.datasets.base import landmarks_box

MARGIN = 0.4  # of the face's box, on each side, in which it is looked for
_WINDOW, _LEVELS = 21, 3  # of the flow, pixels of a 256-pixel crop: motions of 80 pixels can be told
_BACK = 1.0  # pixels: a point that flows back to another place than it came from has not been followed
_INLIER = 2.0  # pixels from where the similarity has the point
_LEAST = 12  # points, at least, for a similarity to be believed

Image = npt.NDArray[np.uint8]


def moved_shape(before: Image, now: Image, landmarks: npt.NDArray[np.floating]) -> npt.NDArray[np.float32] | None:
    """Where a shape of one frame is in the next: the similarity that most of its points follow.

    The pyramidal method of Lucas and Kanade (Bouguet 2000), forward and backward; RANSAC finds the similarity. Details
    of the shape stay as they are, so it does not fray.

    :param before: (H, W, 3) uint8
    :param now: the next frame, of the same size
    :param landmarks: (K, 2) in ``before``, pixels
    :return: (K, 2) in ``now``; None: the frames do not tell, as where one scene is cut to another
    """
    import cv2

    box = landmarks_box(landmarks).astype(np.float64)
    if before.shape != now.shape or not np.isfinite(box).all() or not (box[2:] > box[:2]).all():
        return None
    transform = crop_transform(box, MARGIN)
    first, second = (cv2.cvtColor(cut(frame, transform), cv2.COLOR_RGB2GRAY) for frame in (before, now))
    points = transform_points(transform, landmarks)[:, None]
    window = (_WINDOW, _WINDOW)
    there, back = np.empty_like(points), np.empty_like(points)
    _, found, _ = cv2.calcOpticalFlowPyrLK(first, second, points, there, winSize=window, maxLevel=_LEVELS)
    _, found_back, _ = cv2.calcOpticalFlowPyrLK(second, first, there, back, winSize=window, maxLevel=_LEVELS)
    apart = np.linalg.norm((back - points)[:, 0], axis=1)
    followed = (apart < _BACK) & (found[:, 0] == 1) & (found_back[:, 0] == 1)
    if followed.sum() < _LEAST:
        return None
    matrix, inliers = cv2.estimateAffinePartial2D(
        points[followed, 0], there[followed, 0], ransacReprojThreshold=_INLIER
    )
    if matrix is None or inliers.sum() < max(_LEAST, followed.sum() / 2):
        return None
    return transform_points(invert_transform(transform), transform_points(matrix, points[:, 0]))
