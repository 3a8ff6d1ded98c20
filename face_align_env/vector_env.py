"""FaceAlignVectorEnv: N faces as one batch; it plays exactly what N single environments play."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
from gymnasium import logger, spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from face_align_env.arrays import BACKENDS, Backend, arrays_of
from face_align_env.checks import check_choice, check_flag, check_integer
from face_align_env.datasets import FaceDataset
from face_align_env.episodes import ALL, EpisodeBatch, Outcome, check_reset_options, valid_actions
from face_align_env.initialization import Initializer
from face_align_env.keywords import Keywords, PathLike, Reward, SpecOfStrings, Termination, check_render_mode, make_task
from face_align_env.prepared import FaceSource

if TYPE_CHECKING:
    from face_align_env.augmentation import Augmentation
    from face_align_env.sequences import Motion

Observation = dict[str, Any]
"""Arrays, or tensors, of all slots."""


class FaceAlignVectorEnv(SpecOfStrings, VectorEnv[Observation, npt.NDArray[np.float32], npt.NDArray[Any]]):
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
    :param copy: whether each observation has arrays of its own. Otherwise two arrays of patches take turns: an
        observation stays as it is until the second step or reset after it, which is enough for the algorithms of
        Stable-Baselines3, and not for who keeps observations in a list. Tensors are always their own
    :param backend: ``"numpy"``; or ``"torch"``: observations, rewards (float32), flags and infos are tensors on
        ``device``, where the states live and patches are cut, and :meth:`step` takes tensors. It plays the same to
        within rounding of the NME. The wrappers of this package are for NumPy's arrays
    :param max_episode_steps: truncates an episode after that many steps, as :class:`gymnasium.wrappers.TimeLimit` does;
        :func:`gymnasium.make_vec` passes it on
    :raises ValueError: see :class:`~face_align_env.env.FaceAlignEnv`, whose keywords are the others
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
        dataset: str | FaceDataset | FaceSource = "synthetic",
        split: str = "train",
        root: PathLike | None = None,
        landmarks: int | None = None,
        dataset_options: Mapping[str, Any] | None = None,
        initializer: PathLike | Initializer = "gen",
        termination: Termination = "oracle",
        terminate_at_limit: bool = False,
        alpha_1: float = 0.07,
        alpha_2: float | None = None,
        beta_1: float = 0.03,
        beta_2: float = -0.02,
        max_iterations: int = 10,
        reward: Reward = "paper",
        iteration_cost: float = 0.0,
        shaping_gamma: float = 0.9,
        shaping_scale: float = 1.0,
        action_limit: float = 32.0,
        patch_size: int = 30,
        normalizer: str | None = None,
        margin: float | None = None,
        augment: bool | Augmentation | Mapping[str, Any] = False,
        frames: int = 1,
        motion: Motion | Mapping[str, Any] | None = None,
        learned_history: bool = False,
        observe_patches: bool = True,
        observe_time: bool = False,
        observe_residual: bool = False,
        device: str = "cpu",
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        backend: Backend = "numpy",
        max_episode_steps: int | None = None,
    ) -> None:
        check_integer("num_envs", num_envs, least=1)
        check_render_mode(render_mode, self.metadata["render_modes"])
        if max_episode_steps is not None:
            check_integer("max_episode_steps", max_episode_steps, least=1)
        keywords = Keywords(
            dataset=dataset,
            split=split,
            root=root,
            landmarks=landmarks,
            dataset_options=dataset_options,
            initializer=initializer,
            termination=termination,
            terminate_at_limit=terminate_at_limit,
            alpha_1=alpha_1,
            alpha_2=alpha_2,
            beta_1=beta_1,
            beta_2=beta_2,
            max_iterations=max_iterations,
            reward=reward,
            iteration_cost=iteration_cost,
            shaping_gamma=shaping_gamma,
            shaping_scale=shaping_scale,
            action_limit=action_limit,
            patch_size=patch_size,
            normalizer=normalizer,
            margin=margin,
            augment=augment,
            frames=frames,
            motion=motion,
            learned_history=learned_history,
            observe_patches=observe_patches,
            observe_time=observe_time,
            observe_residual=observe_residual,
            device=device,
        )
        check_choice("backend", backend, BACKENDS)
        self.task = make_task(keywords)
        self.backend = backend
        self.arrays = arrays_of(backend, device)
        self.episodes = EpisodeBatch(self.task, num_envs, self.arrays)
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.copy = check_flag("copy", copy)
        self.max_episode_steps = max_episode_steps
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
        self._patches: list[npt.NDArray[np.uint8]] = []  # of the last two observations, without copy

    @property
    def faces(self) -> FaceSource:
        """Where the faces come from, see :attr:`FaceAlignEnv.faces`."""
        return self.task.source

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

        Where this fails for its arguments, the episodes before go on; otherwise the slots have none.

        :param seed: slot j is seeded with ``seed + j``; or one seed (or None) for each slot
        :param options: ``index`` and ``reset_mask``, see above
        :raises ValueError, TypeError: options that do not fit, or that do not exist
        """
        options = dict(check_reset_options(options, ["index", "reset_mask"]))
        mask = self._reset_mask(options.get("reset_mask"))
        indices = self._indices(options.get("index"))
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

        self._begin(mask, indices)
        return self._observations(), self._infos(mask)

    def step(self, actions: Any) -> tuple[Observation, Any, Any, Any, dict[str, Any]]:
        """One iteration in each slot; what happens where an episode has ended, ``autoreset_mode`` says.

        :param actions: (N, A), see :class:`~face_align_env.env.FaceAlignEnv`
        :raises ValueError: when the shape differs, or there is a NaN
        :raises ResetNeeded: before the first reset; with autoreset disabled, where an episode has ended
        """
        if not self.episodes.begun.all():
            raise ResetNeeded("Call reset() before step().")
        actions = valid_actions(actions, self.action_space, self.task.action_layout, self.arrays)
        begun = self._ended
        if not begun.any():
            outcome = self.episodes.advance(ALL, actions)
        elif self.autoreset_mode == AutoresetMode.NEXT_STEP:
            # The step after the end begins the next episode; its action is ignored and it earns nothing.
            self._begin(begun)
            outcome = self._advance_some(np.flatnonzero(~begun), actions)
        else:
            raise ResetNeeded(
                f"The episodes of slots {np.flatnonzero(begun).tolist()} have ended: reset them with "
                "options['reset_mask']."
            )

        rewards, terminated, truncated, success = outcome
        by_itself = terminated | truncated
        if self.max_episode_steps is not None:  # as gymnasium.wrappers.TimeLimit, which does not know of is_success
            truncated = truncated | (self.episodes.steps >= self.max_episode_steps)
        ended = self.arrays.host(terminated | truncated)
        verdict = {"is_success": (success, by_itself)} if by_itself.any() else {}
        observations = self._observations()
        if self.autoreset_mode == AutoresetMode.SAME_STEP and ended.any():
            final: dict[str, Any] = {
                "final_obs": self._per_slot(observations, ended),
                "_final_obs": self._flags(ended),
                "final_info": self._infos(ended, verdict),
                "_final_info": self._flags(ended),
            }
            self._begin(ended)
            slots = np.flatnonzero(ended)
            for key, value in self.episodes.observations(slots).items():
                observations[key][slots] = value
            infos = {**final, **self._infos()}
        else:
            self._ended = ended
            infos = self._infos(None, verdict)
        if self.backend == "torch":
            rewards = self.arrays.of(rewards, "float32")  # as policies calculate
        return observations, rewards, terminated, truncated, infos

    def _advance_some(self, slots: npt.NDArray[np.int64], actions: Any) -> Outcome:
        """One iteration in some slots; zeros and False for the others."""
        types = ("float64", "bool", "bool", "bool")
        whole = Outcome(*(self.arrays.full((self.num_envs,), 0, dtype) for dtype in types))
        if slots.size:
            for values, some in zip(whole, self.episodes.advance(slots, actions[slots]), strict=True):
                values[slots] = some
        return whole

    def _observations(self) -> Observation:
        """s_t of all slots, in arrays that nobody else has, or without ``copy`` in two that take turns."""
        if self.copy or not self.task.observe_patches or self.backend != "numpy":
            return self.episodes.observations()
        out = self._patches.pop(0) if len(self._patches) == 2 else None
        observations = self.episodes.observations(out=out)
        self._patches.append(observations["patches"])
        return observations

    def render(self) -> tuple[Any, ...] | None:
        """A picture of each slot, see :meth:`FaceAlignEnv.render`."""
        if self.render_mode is None:
            logger.warn('render() needs a render mode: gym.make_vec("FaceAlign-v0", render_mode="rgb_array")')
            return None
        if not self.episodes.begun.all():
            raise ResetNeeded("Call reset() before render().")
        return tuple(self.episodes.frame(j) for j in range(self.num_envs))

    def get_state(self) -> dict[str, Any]:
        """Everything that the slots have played so far, in arrays, numbers and texts: for :meth:`set_state`."""
        return {
            "episodes": {key: each.copy() for key, each in self._states().items()},
            "orders": [order.get_state() for order in self._orders],
            "rngs": [rng.bit_generator.state for rng in self._rngs],
            "seeds": list(self._seeds),
            "ended": self._ended.copy(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on exactly where an environment of the same keywords was.

        :param state: what :meth:`get_state` gave
        :raises ValueError: it is that of another number of slots or of landmarks
        """
        shapes = {key: value.shape for key, value in self._states().items()}
        for key, value in state["episodes"].items():
            if value.shape != shapes[key]:
                raise ValueError(f"The state has {key} {value.shape}, expected {shapes[key]}.")
            kept = getattr(self.episodes, key)
            kept[...] = value if isinstance(kept, np.ndarray) else self.arrays.of(value)
        for order, each in zip(self._orders, state["orders"], strict=True):
            order.set_state(each)
        for rng, each in zip(self._rngs, state["rngs"], strict=True):
            rng.bit_generator.state = each
        self._seeds = list(state["seeds"])
        self._ended = state["ended"].copy()

    def _states(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays of the episodes, on the host."""
        return {
            key: each if isinstance(each, np.ndarray) else self.arrays.host(each)
            for key, each in vars(self.episodes).items()
            if hasattr(each, "shape")
        }

    def _begin(self, mask: npt.NDArray[np.bool_], indices: Sequence[Any] | None = None) -> None:
        """Begin the next episode in each slot of ``mask``."""
        slots = np.flatnonzero(mask)
        drawn = [self._orders[j].draw(self._rngs[j], None if indices is None else indices[j]) for j in slots.tolist()]
        self.episodes.begin(slots, *zip(*drawn, strict=True))
        self._ended = self._ended & ~mask

    def _indices(self, index: Any) -> Sequence[Any] | None:
        """The face of each slot that ``options["index"]`` wants."""
        if index is None:
            return None
        wanted = list(index) if np.ndim(index) else [index] * self.num_envs
        if len(wanted) != self.num_envs:
            raise ValueError(
                f"options['index'] must be one face, or one for each of the {self.num_envs} slots; got {len(wanted)}."
            )
        for order, face in zip(self._orders, wanted, strict=True):
            order.check(face)
        return wanted

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
        more: dict[str, tuple[Any, Any]] | None = None,
    ) -> dict[str, Any]:
        """Infos as Gymnasium's vector environments give them: ``key`` for all slots, ``_key`` says where it holds.

        :param mask: slots that have an info; the others get zeros. None: all
        :param more: further keys, each with its own mask
        """
        everywhere = np.ones(self.num_envs, dtype=np.bool_) if mask is None else mask
        infos: dict[str, Any] = {}
        for key, value in self.episodes.infos().items():
            infos[key], infos[f"_{key}"] = self.arrays.copy(value), self._flags(everywhere)
            if mask is not None:
                infos[key][self._flags(~mask)] = 0
        for key, (value, where) in (more or {}).items():
            infos[key], infos[f"_{key}"] = value & where, self.arrays.copy(where)
        return infos

    def _flags(self, mask: npt.NDArray[np.bool_]) -> Any:
        """A mask as who calls gets it: an array of the backend, his own."""
        return self.arrays.copy(self.arrays.of(mask))

    def _per_slot(self, observations: Observation, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.object_]:
        """(N,) the observation of each slot of ``mask`` by itself, None elsewhere."""
        array = np.full(len(mask), None, dtype=object)
        for j in np.flatnonzero(mask):
            array[j] = {key: self.arrays.copy(value[j]) for key, value in observations.items()}
        return array
