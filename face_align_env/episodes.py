"""The episodes behind both environments: N faces at once, one implementation of the dynamics.

:func:`make_task` turns the keywords of ``gym.make`` into what an episode needs; :class:`EpisodeBatch` holds the
state of N episodes, begins them and advances them. ``FaceAlignEnv`` is a batch of one, ``FaceAlignVectorEnv`` a
batch of N. The equations themselves are in :mod:`face_align_env.mdp`.
"""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from face_align_env import mdp
from face_align_env.crops import CROP_SIZE, MARGIN
from face_align_env.datasets import FaceDataset, load_dataset
from face_align_env.initialization import Initializer, MeanShape, make_initializer, released_gen
from face_align_env.mdp import DEFAULT_ACTION_LIMIT, HISTORY_SIZE
from face_align_env.patches import PATCH_SIZE, Buffers, extract_patches, inner, pad_in_place
from face_align_env.prepared import FaceSource, PreparedFaces

if TYPE_CHECKING:
    from face_align_env.augmentation import Augmentation

TERMINATIONS = ("oracle", "blind", "limit")

ALL = slice(None)
Slots = slice | npt.NDArray[np.int64]
"""Which episodes of a batch: :data:`ALL`, or their numbers."""


@dataclass(frozen=True, eq=False)
class Task:
    """Everything about the environment that does not change from episode to episode.

    :param source: the faces
    :param initializer: gives x_0
    :param parameters: constants of Eq. 3 and 4
    :param termination: ``"oracle"``, ``"blind"`` (Eq. 3 with NME taken as 0) or ``"limit"`` (never before
        ``max_iterations``; then Eq. 3 with the action taken as 0)
    :param action_limit: largest increment of a coordinate in one iteration, pixels
    :param patch_size: side of a patch, pixels
    :param learned_history: whether the policy writes d_t, as the second part of its action
    """

    source: FaceSource
    initializer: Initializer
    parameters: mdp.MDPParameters
    termination: str
    action_limit: float
    patch_size: int
    learned_history: bool

    @property
    def num_faces(self) -> int:
        return len(self.source.prepared)

    @property
    def num_landmarks(self) -> int:
        return self.source.prepared.scheme.num_landmarks

    def new_order(self) -> FaceOrder:
        """The order in which a slot plays the faces, from its beginning."""
        return FaceOrder(self.num_faces, shuffled=self.source.prepared.dataset.is_train)

    @property
    def observation_space(self) -> spaces.Dict:
        """The paper's s_t = (p_t, d_t)."""
        shape = (self.num_landmarks, self.patch_size, self.patch_size, 3)
        return spaces.Dict(
            patches=spaces.Box(0, 255, shape, np.uint8),
            history=spaces.Box(-1.0, 1.0, (HISTORY_SIZE,), np.float32),
        )

    @property
    def action_space(self) -> spaces.Box:
        """a_t, or [a_t, d_{t+1}] where the policy writes the history."""
        high = np.full(2 * self.num_landmarks, self.action_limit, dtype=np.float32)
        if self.learned_history:
            high = np.concatenate([high, np.ones(HISTORY_SIZE, dtype=np.float32)])
        return spaces.Box(-high, high, dtype=np.float32)


def make_task(
    dataset: str | FaceDataset | FaceSource = "synthetic",
    split: str = "train",
    root: str | os.PathLike[str] | None = None,
    landmarks: int | None = None,
    dataset_options: Mapping[str, Any] | None = None,
    initializer: str | os.PathLike[str] | Initializer = "gen",
    termination: str | None = None,
    alpha_1: float = mdp.MDPParameters.alpha_1,
    alpha_2: float | None = None,
    beta_1: float = mdp.MDPParameters.beta_1,
    beta_2: float = mdp.MDPParameters.beta_2,
    max_iterations: int = mdp.MAX_ITERATIONS,
    reward: str = mdp.MDPParameters.reward,
    iteration_cost: float = mdp.MDPParameters.iteration_cost,
    shaping_gamma: float = mdp.MDPParameters.shaping_gamma,
    shaping_scale: float = mdp.MDPParameters.shaping_scale,
    action_limit: float = DEFAULT_ACTION_LIMIT,
    patch_size: int = PATCH_SIZE,
    normalizer: str | None = None,
    margin: float | None = None,
    augment: bool | Augmentation = False,
    learned_history: bool = False,
    device: str = "cpu",
) -> Task:
    """The keywords of ``gym.make``; :class:`~face_align_env.env.FaceAlignEnv` describes each of them.

    :raises ValueError: a value that makes no sense, or keywords that contradict each other
    :raises DatasetNotFoundError: the data is nowhere to be found
    """
    if action_limit <= 0 or patch_size < 1:
        raise ValueError(f"action_limit and patch_size must be positive, got {action_limit} and {patch_size}.")
    source = _make_source(dataset, split, root, landmarks, dataset_options, normalizer, margin, augment)
    prepared = source.prepared
    faces = prepared.dataset
    if termination is None:
        termination = "oracle" if faces.is_train else "blind"
    if termination not in TERMINATIONS:
        raise ValueError(f"termination must be one of {', '.join(TERMINATIONS)}, got '{termination}'.")

    def mean_shape() -> npt.NDArray[np.float32]:
        if faces.is_train:
            return prepared.mean_shape()
        if not isinstance(dataset, str):
            raise ValueError(
                f"The mean shape comes from the training split, and this is split '{faces.split}' of a dataset given "
                "as an object. Give the dataset's name, or initializer=MeanShape(PreparedFaces(train).mean_shape())."
            )
        train = load_dataset(dataset, faces.splits[0], root, landmarks, **(dataset_options or {}))
        return PreparedFaces(train, margin=prepared.margin).mean_shape()

    if isinstance(initializer, str) and initializer == "gen":
        initializer = released_gen(prepared.scheme, faces.name) or "mean"
        if initializer == "mean":
            warnings.warn(
                f"There are no released GEN weights for {prepared.scheme.num_landmarks} landmarks of {faces.name}: "
                "episodes start from the mean shape. Train GEN with 'face-align pretrain gen --dataset ...' and pass "
                "the weights' path as initializer=..., or pass initializer='mean' to silence this.",
                stacklevel=3,
            )
    return Task(
        source=source,
        initializer=make_initializer(initializer, prepared.scheme, mean_shape, device),
        parameters=mdp.MDPParameters(
            alpha_1,
            faces.alpha_2 if alpha_2 is None else alpha_2,
            beta_1,
            beta_2,
            max_iterations,
            reward,
            iteration_cost,
            shaping_gamma,
            shaping_scale,
        ),
        termination=termination,
        action_limit=float(action_limit),
        patch_size=patch_size,
        learned_history=learned_history,
    )


def _make_source(
    dataset: str | FaceDataset | FaceSource,
    split: str,
    root: str | os.PathLike[str] | None,
    landmarks: int | None,
    dataset_options: Mapping[str, Any] | None,
    normalizer: str | None,
    margin: float | None,
    augment: bool | Augmentation,
) -> FaceSource:
    if not isinstance(dataset, str) and (root is not None or landmarks is not None or dataset_options):
        raise ValueError("root, landmarks and dataset_options go with a dataset's name, not with a dataset object.")
    if isinstance(dataset, FaceSource):
        if normalizer is not None or margin is not None or augment:
            raise ValueError("A FaceSource has its normalizer, margin and augmentation already; leave them out.")
        return dataset
    if isinstance(dataset, str):
        dataset = load_dataset(dataset, split, root, landmarks, **(dataset_options or {}))
    prepared = PreparedFaces(dataset, normalizer, MARGIN if margin is None else margin)
    if augment is False:
        return FaceSource(prepared)
    # torch is imported only for those who augment.
    from face_align_env.augmentation import Augmentation

    return FaceSource(prepared, Augmentation() if augment is True else augment)


class FaceOrder:
    """Which face comes next: shuffled passes over the training split, a test split in order, again and again.

    :param num_faces: number of faces
    :param shuffled: whether each pass has a new random order
    """

    def __init__(self, num_faces: int, shuffled: bool) -> None:
        self._order: npt.NDArray[np.integer] = np.arange(num_faces)
        self._shuffled = shuffled
        self._position = num_faces

    def draw(self, rng: np.random.Generator, index: Any = None) -> tuple[int, int]:
        """The face of the next episode and the seed of its view.

        :param rng: the slot's generator
        :param index: a face that the caller wants; the pass goes on after it as if nothing had happened
        :raises ValueError: when there is no such face
        """
        if index is None:
            if self._position == len(self._order):
                self._position = 0
                if self._shuffled:
                    self._order = rng.permutation(len(self._order))
            index = self._order[self._position]
            self._position += 1
        elif not 0 <= operator.index(index) < len(self._order):
            raise ValueError(f"options['index'] must be from 0 to {len(self._order) - 1}, got {index}.")
        return int(index), int(rng.integers(np.iinfo(np.int64).max))


def valid_actions(actions: npt.ArrayLike, space: spaces.Box) -> npt.NDArray[np.float32]:
    """Actions as float32, clipped to their space; a copy.

    :param actions: of the shape of ``space``
    :raises ValueError: when the shape differs, or there is a NaN
    """
    array = np.asarray(actions, dtype=np.float32)
    if array.shape != space.shape:
        raise ValueError(
            f"Expected an action of shape {space.shape} (increments dx_1, dy_1, ..., dx_K, dy_K in pixels of the "
            f"crop; with a learned history d_(t+1) after them), got {array.shape}."
        )
    if np.isnan(array).any():
        raise ValueError(f"The action holds {int(np.isnan(array).sum())} NaN; it must be made of numbers.")
    clipped: npt.NDArray[np.float32] = np.minimum(np.maximum(array, space.low), space.high)
    return clipped


class EpisodeBatch:
    """The state of N episodes.

    :param task: what they have in common
    :param num_slots: N
    :ivar begun: (N,) bool, whether there is an episode in the slot; the rest means nothing where there is none
    :ivar index: (N,) int64, the face
    :ivar view_seed: (N,) int64, with ``index`` it identifies the crop
    :ivar padded: (N, 256 + 2p, 256 + 2p, 3) uint8, the crops with a border of the patch size p
    :ivar ground_truth: (N, K, 2) float32, crop pixels
    :ivar d: (N,) float64, Eq. 2's normalising distance, crop pixels
    :ivar counted: (N, K) bool, the landmarks that Eq. 2 counts
    :ivar x_0: (N, K, 2) float32, where the episode began
    :ivar x: (N, K, 2) float32, x_t
    :ivar x_previous: (N, K, 2) float32, x_{t-1}; x_0 at the beginning
    :ivar history: (N, 512) float32, d_t
    :ivar nme: (N,) float64, NME of x_t
    :ivar initial_nme: (N,) float64, NME of x_0
    :ivar t: (N,) int64, number of iterations so far
    :ivar last_reward: (N,) float64, reward of the last iteration; 0 at the beginning
    """

    def __init__(self, task: Task, num_slots: int) -> None:
        self.task = task
        n, k = num_slots, task.num_landmarks
        side = CROP_SIZE + 2 * task.patch_size
        self.begun = np.zeros(n, dtype=np.bool_)
        self.index = np.zeros(n, dtype=np.int64)
        self.view_seed = np.zeros(n, dtype=np.int64)
        self.padded = np.zeros((n, side, side, 3), dtype=np.uint8)
        self.ground_truth = np.zeros((n, k, 2), dtype=np.float32)
        self.d = np.ones(n, dtype=np.float64)
        self.counted = np.ones((n, k), dtype=np.bool_)
        self.x_0 = np.zeros((n, k, 2), dtype=np.float32)
        self.x = np.zeros((n, k, 2), dtype=np.float32)
        self.x_previous = np.zeros((n, k, 2), dtype=np.float32)
        self.history = np.zeros((n, HISTORY_SIZE), dtype=np.float32)
        self.nme = np.zeros(n, dtype=np.float64)
        self.initial_nme = np.zeros(n, dtype=np.float64)
        self.t = np.zeros(n, dtype=np.int64)
        self.last_reward = np.zeros(n, dtype=np.float64)
        self._buffers = Buffers()

    def begin(self, slots: Slots, indices: npt.ArrayLike, seeds: npt.ArrayLike) -> None:
        """Begin new episodes.

        :param slots: M slots
        :param indices: (M,) faces
        :param seeds: (M,) seeds of their views
        :raises ValueError: when the initializer does not give M finite shapes of K landmarks
        """
        index, seed = np.asarray(indices, dtype=np.int64), np.asarray(seeds, dtype=np.int64)
        p, everywhere = self.task.patch_size, len(index) == len(self.index)
        padded = self.padded if everywhere else np.empty((len(index), *self.padded.shape[1:]), dtype=np.uint8)
        # The crops are made where they stay. Whoever gives x_0 gets his own: these change with the next episode.
        faces = self.task.source.batch(index, seed, out=inner(padded, p))
        crops = faces.crops if isinstance(self.task.initializer, MeanShape) else faces.crops.copy()
        x_0 = np.asarray(self.task.initializer(crops), dtype=np.float32)
        if x_0.shape != faces.landmarks.shape or not np.isfinite(x_0).all():
            raise ValueError(
                f"The initializer must give finite shapes {faces.landmarks.shape}, in pixels of the crop; "
                f"it gave {x_0.shape}{'' if np.isfinite(x_0).all() else ' with values that are not finite'}."
            )
        self.index[slots], self.view_seed[slots] = index, seed
        pad_in_place(padded, p)
        if not everywhere:
            self.padded[slots] = padded
        self.ground_truth[slots], self.d[slots], self.counted[slots] = faces.landmarks, faces.d, faces.counted
        self.x_0[slots] = self.x[slots] = self.x_previous[slots] = x_0
        self.history[slots] = 0
        nme_0 = mdp.nme(x_0, faces.landmarks, faces.d, faces.counted)
        self.nme[slots] = self.initial_nme[slots] = nme_0
        self.t[slots] = 0
        self.last_reward[slots] = 0
        self.begun[slots] = True

    def advance(
        self, slots: Slots, actions: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """One iteration: from s_t and a_t to s_{t+1} and its reward.

        :param slots: M slots
        :param actions: (M, A), see :func:`valid_actions`
        :return: (M,) rewards, (M,) terminated, (M,) truncated
        """
        task, parameters = self.task, self.task.parameters
        a, d_next = actions[:, : 2 * task.num_landmarks], actions[:, 2 * task.num_landmarks :]
        x, nme_before, t = self.x[slots], self.nme[slots], self.t[slots] + 1

        x_next = mdp.transition(x, a)
        nme_after = mdp.nme(x_next, self.ground_truth[slots], self.d[slots], self.counted[slots])
        timeout = t >= parameters.max_iterations
        if task.termination == "limit":
            # When to stop is given. What is left of Eq. 3 is whether the shape is good enough, asked once.
            terminated = timeout & mdp.is_terminal(nme_after, a, parameters.alpha_1, alpha_2=np.inf)
        else:
            known_nme = nme_after if task.termination == "oracle" else 0.0
            terminated = mdp.is_terminal(known_nme, a, parameters.alpha_1, parameters.alpha_2)
        if parameters.reward == "dense":
            rewards = mdp.dense_reward(nme_before, nme_after)
        else:
            rewards = mdp.reward(nme_before, nme_after, terminated, timeout, parameters.beta_1, parameters.beta_2)
        if parameters.reward == "shaped":
            gamma, scale = parameters.shaping_gamma, parameters.shaping_scale
            rewards = rewards + mdp.shaping(nme_before, nme_after, terminated | timeout, gamma, scale)
        rewards = rewards - parameters.iteration_cost
        if not task.learned_history:
            d_next = np.concatenate([a / task.action_limit, self.history[slots]], axis=1)[:, :HISTORY_SIZE]

        # x may be a view of self.x: it is kept before it is overwritten
        self.x_previous[slots] = x
        self.x[slots], self.history[slots] = x_next, d_next
        self.nme[slots], self.t[slots], self.last_reward[slots] = nme_after, t, rewards
        return rewards, terminated, timeout & ~terminated

    def observations(self, slots: Slots = ALL) -> dict[str, npt.NDArray[Any]]:
        """s_t of each slot: ``patches`` (M, K, p, p, 3) uint8 and ``history`` (M, 512) float32.

        The arrays are the caller's: they do not change while anybody holds them or a view of them.
        """
        p, x = self.task.patch_size, self.x[slots]
        faces = None if isinstance(slots, slice) else slots
        patches = self._buffers.get((*x.shape[:2], p, p, 3))
        return {
            "patches": extract_patches(self.padded, x, p, faces, patches),
            "history": self.history[slots].copy(),
        }

    def infos(self) -> dict[str, npt.NDArray[Any]]:
        """What ``info`` says of each slot; (N, ...) arrays that belong to this batch."""
        return {
            "nme": self.nme,
            "initial_nme": self.initial_nme,
            "iterations": self.t,
            "landmarks": self.x,
            "previous_landmarks": self.x_previous,
            "image_index": self.index,
            "view_seed": self.view_seed,
        }

    def frame(self, slot: int) -> npt.NDArray[np.uint8]:
        """Picture of one slot's state, (512, 512, 3) uint8 RGB; see :func:`face_align_env.rendering.draw_state`."""
        from face_align_env.rendering import draw_state

        p = self.task.patch_size
        caption = f"t = {self.t[slot]}   NME {100 * self.nme[slot]:.2f} %"
        if self.t[slot]:
            caption += f"   reward {self.last_reward[slot]:+.{0 if self.task.parameters.reward == 'paper' else 2}f}"
        return draw_state(
            self.padded[slot, p:-p, p:-p],
            self.task.source.prepared.scheme,
            x_t=self.x[slot],
            x_0=self.x_0[slot],
            ground_truth=self.ground_truth[slot],
            patch_size=p,
            caption=caption,
            annotated=self.counted[slot],
        )
