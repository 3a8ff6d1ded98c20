"""One rollout: who plays a policy on faces, under which termination, and what is kept of it.

Evaluations, benchmarks, films and datasets of episodes are made from a :class:`Rollout`. Two functions make one:
:func:`play` has any policy act in the environment; :func:`~face_align_env.agents.common.crop_rollout.roll_out` has an
aligner work on the same crops without an environment, as it works on photos. A policy does the same in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv

from face_align_env.agents.common.vec_env import FaceAlignVecEnv
from face_align_env.mdp import MDPParameters, is_terminal, reward
from face_align_env.metrics import failure_rate

Act = Callable[[Any], npt.NDArray[np.floating]]
"""Observations of all environments -> their actions."""

GAMMA = 0.9  # Table 2
MEASURES = ("return", "episode_length", "success", "nme", "failure_rate")


@dataclass(frozen=True, eq=False)
class Rollout:
    """An episode of each of N faces. After its end a shape stands still.

    :param errors: (T + 1, N) NME of x_0, ..., x_T (Eq. 2), fractions
    :param rewards: (T, N) float64, what each iteration earned; NaN after an episode's end
    :param successes: (N,) bool, whether the episode ended in a terminal state, with an NME below alpha_1
    :param shapes: (T + 1, N, K, 2) float32, x_0, ..., x_T, pixels of the crop; None: they were not kept
    :param actions: (T, N, 2K) float32, increments a_0, ..., a_{T-1}, pixels of the crop; NaN after an episode's end;
        None: they were not kept
    :param seconds: from crop to shape, seconds a face, of each batch; empty where nobody looked at the clock
    """

    errors: npt.NDArray[np.float64]
    rewards: npt.NDArray[np.float64]
    successes: npt.NDArray[np.bool_]
    shapes: npt.NDArray[np.float32] | None = None
    actions: npt.NDArray[np.float32] | None = None
    seconds: tuple[float, ...] = ()

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(N,) iterations until the end."""
        counts: npt.NDArray[np.int64] = (~np.isnan(self.rewards)).sum(axis=0)
        return counts

    @property
    def returns(self) -> npt.NDArray[np.float64]:
        """(N,) sums of the rewards."""
        return self.discounted(1.0)

    @property
    def nme(self) -> npt.NDArray[np.float64]:
        """(N,) NME where the episodes ended, fractions."""
        last: npt.NDArray[np.float64] = self.errors[-1]
        return last

    @property
    def initial_nme(self) -> npt.NDArray[np.float64]:
        """(N,) NME of x_0, fractions."""
        first: npt.NDArray[np.float64] = self.errors[0]
        return first

    @property
    def saturated(self) -> npt.NDArray[np.bool_]:
        """(N,) whether Eq. 4 has paid all that it pays in so many iterations: +1 for each but the last, +10 for that.

        With a discount of 0.9 these episodes return 10, whatever their length, and none returns more:
        1 + 0.9 + 0.9^2 + ... = 10, so that the terminal +10 is worth as much now as after any number of +1.
        """
        paid: npt.NDArray[np.bool_] = self.successes & ((self.rewards == 1).sum(axis=0) == self.lengths - 1)
        return paid

    def discounted(self, gamma: float = GAMMA) -> npt.NDArray[np.float64]:
        """(N,) returns as seen from the first state: the reward of iteration t counts gamma^(t - 1) times."""
        returns: npt.NDArray[np.float64] = np.nansum(
            gamma ** np.arange(len(self.rewards))[:, None] * self.rewards, axis=0
        )
        return returns

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

    def under(self, termination: str, parameters: MDPParameters) -> Rollout:
        """The same play under a termination that ends it sooner.

        Where Eq. 3 would have stopped a face, and how good it was there, can be read off afterwards: the policy does
        not know what stops it.

        :param termination: ``"blind"``: Eq. 3 with NME taken as 0; ``"oracle"``: Eq. 3; ``"limit"``: no Eq. 3
        :param parameters: of Eq. 3 and 4
        :return: episodes that end, at the latest, where they were played to
        :raises ValueError: the actions were not kept
        """
        if self.actions is None:
            raise ValueError("Eq. 3 looks at the actions, and this rollout has kept none.")
        actions = self.actions[: parameters.max_iterations]
        stops = np.zeros(actions.shape[:2], dtype=np.bool_)
        if termination != "limit":
            known = self.errors[1 : len(actions) + 1] if termination == "oracle" else 0.0
            stops = is_terminal(known, actions, parameters.alpha_1, parameters.alpha_2)
        return self.until(stops, parameters, otherwise=termination == "limit")

    def until(self, stops: npt.NDArray[np.bool_], parameters: MDPParameters, otherwise: bool = False) -> Rollout:
        """The same play until any rule holds.

        :param stops: (T, N) bool, whether it holds after each iteration
        :param parameters: of Eq. 4, and the limit of iterations
        :param otherwise: whether a face that it never stops counts as stopped, not as one that the limit has ended
        """
        lengths = np.minimum(self.lengths, len(stops))
        if len(stops):
            lengths = np.where(stops.any(axis=0), stops.argmax(axis=0) + 1, lengths)
        # An episode that was played for less than the limit was stopped by the rule.
        stopped = stops.any(axis=0) | (lengths < parameters.max_iterations) | otherwise
        return self.of_path(self.errors, lengths, stopped, parameters, self.shapes, self.actions, self.seconds)

    @classmethod
    def of_path(
        cls,
        errors: npt.NDArray[np.float64],
        lengths: npt.NDArray[np.int64],
        stopped: npt.NDArray[np.bool_],
        parameters: MDPParameters,
        shapes: npt.NDArray[np.float32] | None = None,
        actions: npt.NDArray[np.float32] | None = None,
        seconds: tuple[float, ...] = (),
    ) -> Rollout:
        """The first iterations of a play, and what Eq. 4 pays for them.

        :param errors: (T + 1, N)
        :param lengths: (N,) of the episodes
        :param stopped: (N,) bool, whether it is not the limit of iterations that ended the episode
        :param parameters: of Eq. 3 and 4
        :param shapes: (T + 1, N, K, 2)
        :param actions: (T, N, 2K)
        :param seconds: of each batch
        """
        faces = np.arange(errors.shape[1])
        times = np.minimum(np.arange(len(errors))[:, None], lengths)
        errors = errors[times, faces]
        iterations = np.arange(1, len(errors))[:, None]
        over, last = iterations > lengths, iterations == lengths
        successes = stopped & (errors[-1] < parameters.alpha_1)
        terminal, timeout = last & successes, last & ~successes
        paid = reward(errors[:-1], errors[1:], terminal, timeout, parameters.beta_1, parameters.beta_2)
        return cls(
            errors=errors,
            rewards=np.where(over, np.nan, paid),
            successes=successes,
            shapes=None if shapes is None else shapes[times, faces],
            actions=None if actions is None else np.where(over[..., None], np.float32(np.nan), actions),
            seconds=seconds,
        )

    @classmethod
    def joined(cls, parts: Sequence[Rollout]) -> Rollout:
        """Rollouts of several batches of faces as one."""
        longest = max(len(part.rewards) for part in parts)

        def join(name: str, **fill: Any) -> Any:
            """Along the faces; what is shorter is filled up."""
            arrays = [getattr(part, name) for part in parts]
            if any(array is None for array in arrays):
                return None
            lacking = [longest - len(part.rewards) for part in parts]
            padded = [
                np.pad(array, [(0, more), *[(0, 0)] * (array.ndim - 1)], **fill) if more else array
                for array, more in zip(arrays, lacking, strict=True)
            ]
            return np.concatenate(padded, axis=1)

        return cls(
            errors=join("errors", mode="edge"),
            rewards=join("rewards", constant_values=np.nan),
            successes=np.concatenate([part.successes for part in parts]),
            shapes=join("shapes", mode="edge"),
            actions=join("actions", constant_values=np.nan),
            seconds=tuple(second for part in parts for second in part.seconds),
        )


@dataclass(frozen=True, eq=False)
class Step:
    """What an environment of S slots says after an iteration.

    :param going: (S,) bool, the slots whose episode this is part of: what follows an episode's end does not count
    :param observations: of all slots
    :param infos: of each slot; where an episode has ended, its last one
    :param actions: (S, A) that led here; None: after the reset
    :param rewards: (S,)
    :param terminated: (S,) bool
    :param truncated: (S,) bool
    """

    going: npt.NDArray[np.bool_]
    observations: Any
    infos: Sequence[Mapping[str, Any]]
    actions: npt.NDArray[np.floating] | None
    rewards: npt.NDArray[np.floating]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]


def play_steps(
    act: Act, env: VecEnv | gym.vector.VectorEnv[Any, Any, Any], faces: Sequence[int], seed: int | None = None
) -> Iterator[Step]:
    """Play an episode of each of a few faces, one iteration after the other.

    :param act: the policy
    :param env: FaceAlign-v0, in wrappers or not; one of Gymnasium's with the autoreset mode ``NEXT_STEP``, its default,
        in which the last observation of an episode is seen
    :param faces: N numbers of faces, as many as the environment has slots or fewer
    :param seed: slot j is seeded with ``seed + j``; None: they go on as they are
    :return: the state after the reset, then one of each iteration until the last episode is over
    """
    # Slots that are too many play the first face, too, and do not count.
    wanted = [int(face) for face in [*faces, *[faces[0]] * (env.num_envs - len(faces))]]
    nothing = np.zeros(env.num_envs)
    going = np.arange(env.num_envs) < len(faces)
    infos: Sequence[Mapping[str, Any]]
    if isinstance(env, VecEnv):
        if seed is not None:
            env.seed(seed)
        env.set_options([{"index": face} for face in wanted])
        observations, infos = env.reset(), [{}] * env.num_envs  # Stable-Baselines3 has none at a beginning
    else:
        observations, found = env.reset(seed=seed, options={"index": wanted})
        infos = _by_slot(found, env.num_envs)
    yield Step(going, observations, infos, None, nothing, nothing > 0, nothing > 0)
    while going.any():
        actions = act(observations)
        if isinstance(env, VecEnv):
            observations, rewards, done, infos = env.step(actions)
            truncated = done & [bool(info.get("TimeLimit.truncated", False)) for info in infos]
            terminated = done & ~truncated
        else:
            observations, rewards, terminated, truncated, found = env.step(actions)
            infos = _by_slot(found, env.num_envs)
        yield Step(going, observations, infos, actions, rewards, terminated, truncated)
        going = going & ~(terminated | truncated)


def _by_slot(infos: Mapping[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Gymnasium's dictionary of arrays as a dictionary for each slot."""
    return [{key: value[i] for key, value in infos.items() if not key.startswith("_")} for i in range(num_envs)]


def gather(played: Sequence[Step]) -> Rollout:
    """What :func:`play_steps` has given, as a rollout with shapes.

    :param played: all of it
    """
    count, num_steps = int(played[0].going.sum()), len(played) - 1
    first = played[1].infos
    rewards = np.full((num_steps, count), np.nan)
    errors = np.tile(np.array([info["initial_nme"] for info in first[:count]]), (num_steps + 1, 1))
    shapes = np.tile(np.stack([info["previous_landmarks"] for info in first[:count]]), (num_steps + 1, 1, 1, 1))
    successes = np.zeros(count, dtype=np.bool_)
    for t, step in enumerate(played[1:]):
        for i in np.flatnonzero(step.going).tolist():
            info = step.infos[i]
            rewards[t, i], errors[t + 1 :, i], shapes[t + 1 :, i] = step.rewards[i], info["nme"], info["landmarks"]
            if step.terminated[i] or step.truncated[i]:
                successes[i] = info.get("is_success", False)
    return Rollout(errors, rewards, successes, shapes)


def play(act: Act, env: VecEnv | gym.vector.VectorEnv[Any, Any, Any], faces: Sequence[int]) -> Rollout:
    """Play each of these faces once.

    :param act: the policy
    :param env: see :func:`play_steps`; its slots play the faces batch by batch
    :param faces: N numbers of faces
    """
    batches = (faces[i : i + env.num_envs] for i in range(0, len(faces), env.num_envs))
    return Rollout.joined([gather(list(play_steps(act, env, batch))) for batch in batches])


def play_held_out(act: Act, num_faces: int, **options: Any) -> Rollout:
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
