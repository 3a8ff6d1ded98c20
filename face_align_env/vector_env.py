"""FaceAlignVectorEnv: N faces as one batch; it plays exactly what N single environments play."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from gymnasium import logger, spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from face_align_env.episodes import ALL, EpisodeBatch, make_task, valid_actions

Observation = dict[str, npt.NDArray[Any]]


class FaceAlignVectorEnv(VectorEnv[Observation, npt.NDArray[np.float32], npt.NDArray[Any]]):
    """N episodes of :class:`~face_align_env.env.FaceAlignEnv` as one batch; keywords, spaces and rules are the same.

    Slot j has its own generator and its own order of faces: after ``reset(seed=s)`` it plays exactly what a single
    environment plays after ``reset(seed=s + j)``, to the bit, with an initializer that treats each face alone (GEN's
    convolutions may round differently in batches of different size). Observations, infos and the three autoreset
    modes are those of :class:`gymnasium.vector.SyncVectorEnv`.

    So on a test split every slot begins at face 0: to play each face once, give :meth:`reset` the faces by ``index``.

    ``options`` of :meth:`reset`: ``index``, one face for all slots or (N,) faces; ``reset_mask``, (N,) bool, the slots
    to reset (the others stay as they are), as Gymnasium's ``AutoresetMode.DISABLED`` needs it.

    :param num_envs: N
    :param render_mode: ``"rgb_array"`` or None
    :param autoreset_mode: when a finished episode is followed by the next, see :class:`gymnasium.vector.AutoresetMode`
    :param options: keywords of :class:`~face_align_env.env.FaceAlignEnv`
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - declared so by Gymnasium
        "render_modes": ["rgb_array"],
        "render_fps": 2,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    action_space: spaces.Box
    single_action_space: spaces.Box

    def __init__(
        self,
        num_envs: int = 1,
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        **options: Any,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}.")
        self.task = make_task(**options)
        self.episodes = EpisodeBatch(self.task, num_envs)
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = self.task.observation_space
        self.single_action_space = self.task.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = cast(spaces.Box, batch_space(self.single_action_space, num_envs))

        self._orders = [self.task.new_order() for _ in range(num_envs)]
        self._rngs: list[np.random.Generator] = []
        self._seeds: list[int] = []
        for _ in range(num_envs):
            rng, seed = seeding.np_random()
            self._rngs.append(rng)
            self._seeds.append(seed)
        self._ended = np.zeros(num_envs, dtype=np.bool_)  # episodes that the next step or reset follows up

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generators of the slots."""
        return tuple(self._rngs)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seeds of the slots."""
        return tuple(self._seeds)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin new episodes in all slots, or in those of ``options["reset_mask"]``.

        :param seed: slot j is seeded with ``seed + j``; or one seed (or None) for each slot
        :param options: ``index`` and ``reset_mask``, see above
        :raises ValueError, TypeError: options that do not fit
        """
        options = options or {}
        mask = self._reset_mask(options.get("reset_mask"))
        if not (self.episodes.begun | mask).all():
            raise ResetNeeded("The first reset must be one of all slots; leave out options['reset_mask'].")
        seeds: Sequence[int | None]
        if isinstance(seed, Sequence):
            seeds = seed
        else:
            seeds = [None if seed is None else seed + j for j in range(self.num_envs)]
        if len(seeds) != self.num_envs:
            raise ValueError(f"Expected one seed for each of the {self.num_envs} slots, got {len(seeds)}.")
        for j, slot_seed in enumerate(seeds):
            if mask[j] and slot_seed is not None:
                self._rngs[j], self._seeds[j] = seeding.np_random(slot_seed)
                self._orders[j] = self.task.new_order()

        self._begin(mask, options.get("index"))
        return self.episodes.observations(), self._infos(mask)

    def step(
        self, actions: npt.NDArray[np.float32]
    ) -> tuple[Observation, npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], dict[str, Any]]:
        """One iteration in each slot; what happens where an episode has ended, ``autoreset_mode`` says.

        :param actions: (N, A)
        :raises ValueError: when the shape differs, or there is a NaN
        :raises ResetNeeded: before the first reset; with autoreset disabled, where an episode has ended
        """
        if not self.episodes.begun.all():
            raise ResetNeeded("Call reset() before step().")
        actions = valid_actions(actions, self.action_space)
        rewards = np.zeros(self.num_envs, dtype=np.float64)
        terminated = np.zeros(self.num_envs, dtype=np.bool_)
        truncated = np.zeros(self.num_envs, dtype=np.bool_)

        if not self._ended.any():
            rewards, terminated, truncated = self.episodes.advance(ALL, actions)
        elif self.autoreset_mode == AutoresetMode.NEXT_STEP:
            # The step after the end begins the next episode; its action is ignored and it earns nothing.
            going_on = np.flatnonzero(~self._ended)
            if going_on.size:
                outcome = self.episodes.advance(going_on, actions[going_on])
                rewards[going_on], terminated[going_on], truncated[going_on] = outcome
            self._begin(self._ended)
        else:
            raise ResetNeeded(
                f"The episodes of slots {np.flatnonzero(self._ended).tolist()} have ended: reset them with "
                "options['reset_mask']."
            )

        ended = terminated | truncated
        observations = self.episodes.observations()
        if self.autoreset_mode == AutoresetMode.SAME_STEP and ended.any():
            final: dict[str, Any] = {
                "final_obs": _per_slot(observations, ended),
                "_final_obs": ended.copy(),
                "final_info": self._infos(ended, {"is_success": (terminated, ended)}),
                "_final_info": ended.copy(),
            }
            self._begin(ended)
            slots = np.flatnonzero(ended)
            for key, value in self.episodes.observations(slots).items():
                observations[key][slots] = value
            infos = {**final, **self._infos()}
        else:
            self._ended = ended
            infos = self._infos(None, {"is_success": (terminated, ended)} if ended.any() else {})
        return observations, rewards, terminated, truncated, infos

    def render(self) -> tuple[Any, ...] | None:
        """A picture of each slot, see :meth:`FaceAlignEnv.render`."""
        if self.render_mode is None:
            logger.warn('render() needs a render mode: gym.make_vec("FaceAlign-v0", render_mode="rgb_array")')
            return None
        if not self.episodes.begun.all():
            raise ResetNeeded("Call reset() before render().")
        return tuple(self.episodes.frame(j) for j in range(self.num_envs))

    def _begin(self, mask: npt.NDArray[np.bool_], index: Any = None) -> None:
        """Begin the next episode in each slot of ``mask``."""
        slots = np.flatnonzero(mask)
        wanted = [index] * self.num_envs if index is None or np.ndim(index) == 0 else list(index)
        if len(wanted) != self.num_envs:
            raise ValueError(
                f"options['index'] must be one face, or one for each of the {self.num_envs} slots; got {len(wanted)}."
            )
        drawn = [self._orders[j].draw(self._rngs[j], wanted[j]) for j in slots]
        self.episodes.begin(slots, *zip(*drawn, strict=True))
        self._ended = self._ended & ~mask

    def _reset_mask(self, mask: Any) -> npt.NDArray[np.bool_]:
        if mask is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            kind = mask.dtype if isinstance(mask, np.ndarray) else type(mask)
            raise TypeError(f"options['reset_mask'] must be a numpy array of dtype bool, got {kind}.")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"options['reset_mask'] must have shape ({self.num_envs},) and at least one True, got {mask}."
            )
        return mask

    def _infos(
        self,
        mask: npt.NDArray[np.bool_] | None = None,
        more: dict[str, tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]] | None = None,
    ) -> dict[str, Any]:
        """Infos as Gymnasium's vector environments give them: ``key`` for all slots, ``_key`` says where it holds.

        :param mask: slots that have an info; the others get zeros. None: all
        :param more: further keys, each with its own mask
        """
        everywhere = np.ones(self.num_envs, dtype=np.bool_) if mask is None else mask
        infos: dict[str, Any] = {}
        for key, value in self.episodes.infos().items():
            infos[key], infos[f"_{key}"] = value.copy(), everywhere.copy()
            if mask is not None:
                infos[key][~mask] = 0
        for key, (value, where) in (more or {}).items():
            infos[key], infos[f"_{key}"] = value & where, where.copy()
        return infos


def _per_slot(observations: Observation, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.object_]:
    """(N,) the observation of each slot of ``mask`` by itself, None elsewhere."""
    array = np.full(len(mask), None, dtype=object)
    for j in np.flatnonzero(mask):
        array[j] = {key: value[j].copy() for key, value in observations.items()}
    return array
