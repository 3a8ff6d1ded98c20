"""Playing held-out faces with any policy, as the environment has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from face_align_env.agents.common.vec_env import FaceAlignVecEnv
from stable_baselines3.common.vec_env import VecEnv

from face_align_env.metrics import failure_rate

Act = Callable[[Any], npt.NDArray[np.floating]]
"""Observations of all environments -> their actions."""

MEASURES = ("return", "episode_length", "success", "nme", "failure_rate")


@dataclass(frozen=True, eq=False)
class Played:
    """An episode of each face.

    :param returns: (N,) sums of the rewards, not discounted
    :param lengths: (N,) int64, iterations
    :param successes: (N,) bool, whether the episode has terminated, and with an NME below alpha_1
    :param nme: (N,) NME where it ended, fractions
    :param initial_nme: (N,) NME of x_0
    """

    returns: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int64]
    successes: npt.NDArray[np.bool_]
    nme: npt.NDArray[np.float64]
    initial_nme: npt.NDArray[np.float64]

    def means(self) -> dict[str, float]:
        """The figures of :data:`MEASURES`: success, NME and failure rate in percent."""
        return {
            "return": float(self.returns.mean()),
            "episode_length": float(self.lengths.mean()),
            "success": 100 * float(self.successes.mean()),
            "nme": 100 * float(self.nme.mean()),
            "failure_rate": 100 * failure_rate(self.nme),
        }

    def __str__(self) -> str:
        means, initial = self.means(), 100 * self.initial_nme.mean()
        return (
            f"mean return {means['return']:+.2f}, NME {initial:.1f} % -> {means['nme']:.1f} %, "
            f"{means['success']:.0f} % of the episodes end in a terminal state"
        )


def play(act: Act, env: VecEnv, faces: Sequence[int]) -> Played:
    """Play each of these faces once.

    :param act: the policy
    :param env: FaceAlign-v0, in wrappers or not; its environments play the faces batch by batch
    :param faces: N numbers of faces
    """
    returns = np.zeros(len(faces))
    last: list[dict[str, Any]] = [{}] * len(faces)
    for start in range(0, len(faces), env.num_envs):
        batch = list(faces[start : start + env.num_envs])
        # The last batch is filled up with a face that does not count.
        env.set_options([{"index": int(face)} for face in batch + batch[:1] * (env.num_envs - len(batch))])
        observations = env.reset()
        going = np.arange(env.num_envs) < len(batch)
        while going.any():
            observations, rewards, dones, infos = env.step(act(observations))
            for i in np.flatnonzero(going).tolist():
                returns[start + i] += rewards[i]
                if dones[i]:
                    last[start + i] = infos[i]
            going &= ~dones
    nme = np.array([info["nme"] for info in last])
    # Under blind termination a policy may stop where it has not succeeded.
    alpha_1 = env.get_attr("task")[0].parameters.alpha_1
    return Played(
        returns=returns,
        lengths=np.array([info["iterations"] for info in last], dtype=np.int64),
        successes=np.array([info["is_success"] for info in last]) & (nme < alpha_1),
        nme=nme,
        initial_nme=np.array([info["initial_nme"] for info in last]),
    )


def play_held_out(act: Act, num_faces: int, **options: Any) -> Played:
    """Play the first faces of the test split once each, all at a time.

    :param act: the policy
    :param num_faces: N
    :param options: keywords of FaceAlign-v0; by default with oracle termination, as in training
    """
    env = FaceAlignVecEnv(num_faces, **{"split": "test", "termination": "oracle", **options})
    try:
        return play(act, env, range(num_faces))
    finally:
        env.close()


def spread(num_faces: int, wanted: int) -> list[int]:
    """Numbers of at most ``wanted`` faces, evenly spaced over all of them."""
    chosen: list[int] = np.linspace(0, num_faces - 1, min(wanted, num_faces)).round().astype(int).tolist()
    return chosen
