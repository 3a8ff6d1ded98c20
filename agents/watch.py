"""``face-align watch``: an episode of a run's policy as a film (``.mp4``, ``.gif``) or as frames side by side."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from face_align_env.agents.common.policies import lrn_policy
from face_align_env.agents.common.rollout import Rollout, gather, play_steps
from face_align_env.agents.run_folder import GEN_CASCADES, MEAN_CASCADES, RunFolder
from face_align_env.extras import needs
from face_align_env.files import replacing, write_bytes
from face_align_env.initialization import GENInitializer, MeanShape
from face_align_env.networks.lrn import LRN
from face_align_env.networks.weights import load_weights
from face_align_env.prepared import FaceSource
from face_align_env.rendering import Picture, side_by_side
from face_align_env.vector_env import FaceAlignVectorEnv

SUFFIXES = (".mp4", ".gif", ".png")
METHODS = ("dcrn", "lrn", *(f"gen-lrn{m}" for m in GEN_CASCADES), *(f"lrn-{m}" for m in MEAN_CASCADES))
FPS = 2  # frames a second; an episode has few
_HOLD = 3  # how often a film shows the last frame: the result is what one wants to look at


@dataclass(frozen=True, eq=False)
class Watched:
    """An episode that was played.

    :param frames: (512, 512, 3) uint8 each: s_0, then one an iteration
    :param rollout: what happened, N = 1
    :param split: where the face is from
    """

    frames: tuple[Picture, ...]
    rollout: Rollout
    split: str

    def __str__(self) -> str:
        errors, rewards = 100 * self.rollout.errors[:, 0], self.rollout.rewards[:, 0]
        return (
            f"NME {errors[0]:.2f} % -> {errors[-1]:.2f} % in {len(rewards)} iterations, "
            f"rewards {' '.join(f'{reward:+g}' for reward in rewards)}"
        )


def watch(
    folder: str | os.PathLike[str],
    index: int = 0,
    output: str | os.PathLike[str] | None = None,
    method: str = "dcrn",
    split: str | None = None,
    root: str | None = None,
    termination: str | None = None,
    fps: float = FPS,
) -> tuple[Watched, Path]:
    """Play one face with the policy of a run, and write the picture.

    :param folder: the run's folder
    :param index: of the face in its split
    :param output: ``.mp4``, ``.gif`` or ``.png``; None: ``episodes/SPLIT-INDEX.gif`` in the run's folder, with the
        method's name where it is not DCRN
    :param method, split, root, termination: see :func:`play`
    :param fps: frames a second of a film
    :return: the episode and the file
    :raises FileNotFoundError, ValueError: see :func:`play`; an output of another kind
    :raises ModuleNotFoundError: ``.mp4`` without moviepy
    """
    if output is not None:
        _check_output(Path(output), fps)  # before anything is played
    episode = play(folder, index, method, split, root, termination)
    name = "-".join([episode.split, str(index), *([] if method == "dcrn" else [method])])
    path = Path(folder) / "episodes" / f"{name}.gif" if output is None else Path(output)
    save_frames(episode.frames, path, fps)
    return episode, path


def play(
    folder: str | os.PathLike[str],
    index: int = 0,
    method: str = "dcrn",
    split: str | None = None,
    root: str | None = None,
    termination: str | None = None,
) -> Watched:
    """Play one face with the policy of a run.

    :param folder: the run's folder
    :param index: of the face in its split
    :param method: one of :data:`METHODS`: ``"dcrn"``; ``"lrn"``, the pretrained policy that DCRN starts from, stopped
        by Eq. 3; or a cascade of Table 6, which takes as many iterations as it was trained for
    :param split: None: the dataset's test split
    :param root: of the data, where it is not where the run found it
    :param termination: of :class:`~face_align_env.env.FaceAlignEnv`; None: ``"limit"`` for the cascades of fixed
        length, for the others by the split: blind, on the training split oracle
    :raises FileNotFoundError: it is no run's folder, it has no such weights, or there is no data
    :raises ValueError: there is no such face, method or termination; ``"action"``, since no policy of a run says when
        it stops
    """
    if termination == "action":
        raise ValueError("A run's policies do not say when they stop: termination may be oracle, blind or limit.")
    run = RunFolder(folder)
    if method not in METHODS:
        raise ValueError(f"There is no method '{method}'; there are {', '.join(METHODS)}.")
    data = run.data(root)
    policy = LRN.load({"lrn": run.policy}.get(method, run.weights(method))).eval()
    prepared = data.prepare(split)
    split = prepared.dataset.split
    # On faces that are not trained on, a film shows what a user gets, without ground truth.
    by_method = "oracle" if prepared.dataset.is_train else "blind"
    options: dict[str, Any] = {"alpha_2": run.config.alpha_2}
    if method not in ("dcrn", "lrn"):
        options["max_iterations"] = int(method.rpartition("lrn")[2].lstrip("-"))
        by_method = "limit"
    options["termination"] = termination or by_method
    if not 0 <= index < len(prepared):
        raise ValueError(f"There is no face {index}: --index goes from 0 to {len(prepared) - 1} in split '{split}'.")
    env = FaceAlignVectorEnv(
        1,
        render_mode="rgb_array",
        dataset=FaceSource(prepared),
        initializer=_start(run, method),
        learned_history=True,
        action_limit=policy.config.action_limit,
        patch_size=policy.config.patch_size,
        **options,
    )
    frames: list[Picture] = []
    played = []
    for step in play_steps(lrn_policy(policy), env, [index]):
        played.append(step)
        frames += env.render() or ()
    return Watched(tuple(frames), gather(played), split)


def save_frames(frames: Sequence[Picture], path: str | os.PathLike[str], fps: float = FPS) -> None:
    """Write pictures as a film, or side by side, complete or not at all; a film dwells on the last one.

    :param frames: (H, W, 3) uint8 RGB each, of one size
    :param path: ``.mp4``, ``.gif`` or ``.png``
    :param fps: frames a second of a film
    :raises ValueError: another suffix, or an fps that is not positive
    :raises ModuleNotFoundError: ``.mp4`` without moviepy
    :raises OSError: it cannot be written
    """
    path = Path(path)
    _check_output(path, fps)
    suffix = path.suffix.lower()
    if suffix == ".mp4":
        _write_mp4([*frames, *[frames[-1]] * (_HOLD - 1)], path, fps)
        return
    file = io.BytesIO()
    if suffix == ".png":
        Image.fromarray(side_by_side(frames)).save(file, "PNG")
    else:
        first, *others = map(Image.fromarray, frames)
        shown = [round(1000 / fps)] * len(others) + [round(_HOLD * 1000 / fps)]  # milliseconds of each frame
        first.save(file, "GIF", save_all=True, append_images=others, duration=shown, loop=0)
    write_bytes(path, file.getvalue())


def _check_output(path: Path, fps: float) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"'{path}' must end in one of {', '.join(SUFFIXES)}: a film, or frames side by side.")
    if not 0 < fps < np.inf:
        raise ValueError(f"fps must be positive, got {fps}.")
    if path.suffix.lower() == ".mp4":
        with needs("video", ".mp4 (.gif and .png do not)"):
            import moviepy  # noqa: F401


def _write_mp4(frames: Sequence[Picture], path: Path, fps: float) -> None:
    from moviepy.video.io.ImageSequenceClip import ImageSequenceClip

    with replacing(path, ".mp4") as temporary, contextlib.closing(ImageSequenceClip(list(frames), fps=fps)) as clip:
        clip.write_videofile(str(temporary), codec="libx264", audio=False, logger=None)


def _start(run: RunFolder, method: str) -> GENInitializer | MeanShape:
    """What gives x_0 to a method: GEN, or to LRN-m the mean shape that it was trained from."""
    if not method.startswith("lrn-"):
        return GENInitializer(run.gen)
    notes: dict[str, Any] = load_weights(run.weights(method), "lrn")[2]
    return MeanShape(np.asarray(notes["mean_shape"], dtype=np.float32))
