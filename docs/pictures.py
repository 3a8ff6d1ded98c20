"""The moving picture of the README: ``python docs/pictures.py`` writes ``docs/episode.gif``.

The photo is NASA's of Eileen Collins, in the public domain, as scikit-image ships it (extra ``docs``).
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from skimage import data

from face_align_env.aligner import FaceAligner
from face_align_env.crops import crop_transform, transform_points
from face_align_env.landmarks import get_scheme
from face_align_env.rendering import draw_shape

SIDE = 420  # pixels of the picture
HOLD = 4  # how often the last frame is shown


def main() -> None:
    """Align the photo from a start that is moved away, so that there is something to see, and draw each x_t."""
    photo = data.astronaut()
    aligner = FaceAligner.from_pretrained("300w-68")
    (face,) = aligner(photo)
    transform = crop_transform(face.box[None], aligner.margin)[0] * (SIDE / 256)
    crop = cv2.warpAffine(photo, transform, (SIDE, SIDE), flags=cv2.INTER_CUBIC)
    # A box that is a quarter too low and to the right: GEN's first guess is visibly wrong there.
    side = face.box[2] - face.box[0]
    (moved,) = aligner(photo, boxes=face.box + 0.22 * side * np.array([1, 1, 1, 1]))
    frames = []
    for shape in moved.trajectory:
        points = transform_points(transform[None], shape[None])[0]
        frames.append(Image.fromarray(draw_shape(crop, points, get_scheme(len(points)), scale=1, radius=3)))
    frames += frames[-1:] * HOLD
    target = Path(__file__).parent / "episode.gif"
    frames[0].save(target, save_all=True, append_images=frames[1:], duration=600, loop=0, optimize=True)
    print(f"{len(moved.trajectory) - 1} iterations, {target.stat().st_size / 1000:.0f} kB: {target.name}")


if __name__ == "__main__":
    main()
