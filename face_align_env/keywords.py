"""The keywords of ``gym.make("FaceAlign-v0", ...)``: what each may be, and the task that is made of them."""

from __future__ import annotations

import difflib
import operator
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from face_align_env import mdp
from face_align_env.checks import check_choice, check_flag, check_integer, check_number
from face_align_env.crops import MARGIN
from face_align_env.datasets import FaceDataset, dataset_class, dataset_splits, load_dataset
from face_align_env.initialization import Initializer, make_initializer, released_gen
from face_align_env.mdp import DEFAULT_ACTION_LIMIT, HISTORY_SIZE, MDPParameters
from face_align_env.metrics import NORMALIZERS
from face_align_env.patches import PATCH_SIZE
from face_align_env.prepared import FaceSource, PreparedFaces

if TYPE_CHECKING:
    from face_align_env.augmentation import Augmentation
    from face_align_env.sequences import Motion

PathLike = str | os.PathLike[str]
Termination = Literal["oracle", "blind", "limit", "action"]
Reward = Literal["paper", "dense", "shaped"]
TERMINATIONS: tuple[str, ...] = get_args(Termination)

_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "dataset": ((str, FaceDataset, FaceSource), "a dataset's name, a FaceDataset or a FaceSource"),
    "split": ((str,), "the name of a split"),
    "root": ((str, os.PathLike, type(None)), "a path"),
    "dataset_options": ((Mapping, type(None)), "a mapping of the dataset's keywords"),
    "initializer": ((str, os.PathLike), "'gen', 'mean', the name of released weights, a path or a callable"),
    "device": ((str,), "a torch device's name"),
}


class FaceOrder:
    """Which face comes next: shuffled passes over the training split, a test split in order, again and again.

    :param num_faces: number of faces
    :param shuffled: whether each pass has a new random order
    """

    def __init__(self, num_faces: int, shuffled: bool) -> None:
        self._order: npt.NDArray[np.integer] = np.arange(num_faces)
        self._shuffled = shuffled
        self._position = num_faces

    def check(self, index: Any) -> None:
        """Whether there is such a face, or None, before :meth:`draw` is asked for it.

        :raises ValueError: there is not
        """
        last = len(self._order) - 1
        try:
            there = index is None or 0 <= operator.index(index) <= last
        except TypeError:
            there = False
        if not there:
            raise ValueError(f"options['index'] must be a whole number from 0 to {last}, got {index!r}.")

    def draw(self, rng: np.random.Generator, index: Any = None) -> tuple[int, int]:
        """The face of the next episode and the seed of its view.

        :param rng: the slot's generator
        :param index: a face that the caller wants; the pass goes on after it as if nothing had happened
        """
        if index is None:
            if self._position == len(self._order):
                self._position = 0
                if self._shuffled:
                    self._order = rng.permutation(len(self._order))
            index = self._order[self._position]
            self._position += 1
        return int(index), int(rng.integers(np.iinfo(np.int64).max))

    def get_state(self) -> dict[str, Any]:
        """Where the pass is, for :meth:`set_state`."""
        return {"order": self._order.copy(), "position": self._position}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where another order of the same faces was.

        :param state: what :meth:`get_state` gave
        """
        self._order, self._position = state["order"].copy(), state["position"]


@dataclass(frozen=True, eq=False)
class Task:
    """Everything about the environment that does not change from episode to episode.

    :param source: the faces
    :param initializer: gives x_0
    :param parameters: constants of Eq. 3 and 4
    :param termination: ``"oracle"``, ``"blind"`` (Eq. 3 with NME taken as 0), ``"limit"`` (never before
        ``max_iterations``; then Eq. 3 with the action taken as 0) or ``"action"`` (where the agent says so)
    :param terminate_at_limit: whether the last allowed iteration terminates an episode; otherwise it truncates it
    :param action_limit: largest increment of a coordinate in one iteration, pixels
    :param patch_size: side of a patch, pixels
    :param learned_history: whether the policy writes d_t, as the second part of its action
    :param observe_patches: whether the observation has patches; otherwise no crop is made of the face
    :param observe_time: whether the observation says which share of the iterations is left
    :param observe_residual: whether the observation says where the ground truth is
    :param frames: of the sequence that an episode is; 1: a photo
    :param keywords: that it was made of
    """

    source: FaceSource
    initializer: Initializer
    parameters: MDPParameters
    termination: str
    terminate_at_limit: bool
    action_limit: float
    patch_size: int
    learned_history: bool
    observe_patches: bool
    observe_time: bool
    observe_residual: bool
    frames: int
    keywords: Keywords

    def training_landmarks(self) -> npt.NDArray[np.float32]:
        """(N, K, 2) ground truth of the training split, whatever split is played; pixels of the crop.

        :raises ValueError: another split is played, and the dataset was given as an object
        """
        return self.keywords.training_faces(self.source.prepared).landmarks

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
        """The paper's s_t = (p_t, d_t), and the time left where it is observed."""
        parts: dict[str, spaces.Space[Any]] = {}
        if self.observe_patches:
            shape = (self.num_landmarks, self.patch_size, self.patch_size, 3)
            parts["patches"] = spaces.Box(0, 255, shape, np.uint8)
        parts["history"] = spaces.Box(-1.0, 1.0, (HISTORY_SIZE,), np.float32)
        if self.observe_time:
            parts["time_left"] = spaces.Box(0.0, 1.0, (1,), np.float32)
        if self.observe_time and self.frames > 1:
            parts["frames_left"] = spaces.Box(0.0, 1.0, (1,), np.float32)
        if self.observe_residual:
            parts["residual"] = spaces.Box(-np.inf, np.inf, (2 * self.num_landmarks,), np.float32)
        return spaces.Dict(parts)

    @property
    def agent_stops(self) -> bool:
        """Whether the action says when an episode ends, by a number after its increments."""
        return self.termination == "action"

    @property
    def action_space(self) -> spaces.Box:
        """[a_t, stop, d_{t+1}]: stop where the agent ends the episodes, d_{t+1} where the policy writes the history."""
        high = np.full(2 * self.num_landmarks, self.action_limit, dtype=np.float32)
        others = self.agent_stops + HISTORY_SIZE * self.learned_history
        high = np.concatenate([high, np.ones(others, dtype=np.float32)])
        return spaces.Box(-high, high, dtype=np.float32)

    @property
    def action_layout(self) -> str:
        """What the numbers of an action are, for messages."""
        parts = ["increments dx_1, dy_1, ..., dx_K, dy_K in pixels of the crop"]
        if self.agent_stops:
            parts.append("a number that stops above 0")
        if self.learned_history:
            parts.append("d_(t+1)")
        return ", then ".join(parts)


@dataclass(frozen=True, eq=False)
class Keywords:
    """The keywords that a task is made of; :class:`~face_align_env.env.FaceAlignEnv` describes each of them.

    Making this object reads no data, so it can check what hours of training are to be spent on.

    :raises ValueError: a value makes no sense; the message names its keyword
    """

    dataset: str | FaceDataset | FaceSource = "synthetic"
    split: str = "train"
    root: PathLike | None = None
    landmarks: int | None = None
    dataset_options: Mapping[str, Any] | None = None
    initializer: PathLike | Initializer = "gen"
    termination: Termination = "oracle"
    terminate_at_limit: bool = False
    alpha_1: float = MDPParameters.alpha_1
    alpha_2: float | None = None
    beta_1: float = MDPParameters.beta_1
    beta_2: float = MDPParameters.beta_2
    max_iterations: int = mdp.MAX_ITERATIONS
    reward: Reward = "paper"
    iteration_cost: float = MDPParameters.iteration_cost
    shaping_gamma: float = MDPParameters.shaping_gamma
    shaping_scale: float = MDPParameters.shaping_scale
    action_limit: float = DEFAULT_ACTION_LIMIT
    patch_size: int = PATCH_SIZE
    normalizer: str | None = None
    margin: float | None = None
    augment: bool | Augmentation | Mapping[str, Any] = False
    frames: int = 1
    motion: Motion | Mapping[str, Any] | None = None
    learned_history: bool = False
    observe_patches: bool = True
    observe_time: bool = False
    observe_residual: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.parameters()
        check_choice("termination", self.termination, TERMINATIONS)
        for name in ("terminate_at_limit", "learned_history", "observe_patches", "observe_time", "observe_residual"):
            check_flag(name, getattr(self, name))
        check_number("action_limit", self.action_limit, above=0)
        check_integer("patch_size", self.patch_size, least=1)
        self._check_sequence()
        if self.landmarks is not None:
            check_integer("landmarks", self.landmarks, least=1)
        if self.normalizer is not None:
            check_choice("normalizer", self.normalizer, NORMALIZERS)
        if self.margin is not None:
            check_number("margin", self.margin, above=-0.5)
        for name, (kinds, expected) in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) and not (name == "initializer" and callable(value)):
                raise ValueError(f"{name} must be {expected}, got {value!r}.")
        if not isinstance(self.augment, bool | Mapping):
            from face_align_env.augmentation import Augmentation

            if not isinstance(self.augment, Augmentation):
                raise ValueError(
                    f"augment must be True, False, an Augmentation or a mapping of its values, got {self.augment!r}."
                )
        if not isinstance(self.dataset, str) and (
            self.root is not None or self.landmarks is not None or self.dataset_options
        ):
            raise ValueError("root, landmarks and dataset_options go with a dataset's name, not with a dataset object.")
        if isinstance(self.dataset, FaceSource) and (
            self.normalizer is not None or self.margin is not None or self.augment
        ):
            raise ValueError("A FaceSource has its normalizer, margin and augmentation already; leave them out.")

    def _check_sequence(self) -> None:
        check_integer("frames", self.frames, least=1)
        if self.frames == 1 and self.motion is None:
            return
        from face_align_env.sequences import MAX_FRAMES

        if self.frames > MAX_FRAMES:
            raise ValueError(f"frames must be at most {MAX_FRAMES}, got {self.frames}.")
        if self.motion is not None and self.frames == 1:
            raise ValueError("motion is that of a sequence: give frames=... as well, more than 1.")
        if self.augment is not False:
            raise ValueError("A sequence's views are its frames: leave augment out, or frames.")
        self._motion()

    def _motion(self) -> Motion:
        from face_align_env.sequences import Motion

        if isinstance(self.motion, Motion):
            return self.motion
        if not isinstance(self.motion, Mapping | None):
            raise ValueError(f"motion must be a Motion or a mapping of its values, got {self.motion!r}.")
        try:
            return Motion(**(self.motion or {}))
        except TypeError as error:
            known = ", ".join(field.name for field in fields(Motion))
            raise ValueError(f"motion may have {known}: {error}.") from error

    def parameters(self, alpha_2: float = MDPParameters.alpha_2) -> MDPParameters:
        """The constants of Eq. 3 and 4.

        :param alpha_2: the dataset's, for when the keyword is None
        """
        return MDPParameters(
            self.alpha_1,
            alpha_2 if self.alpha_2 is None else self.alpha_2,
            self.beta_1,
            self.beta_2,
            self.max_iterations,
            self.reward,
            self.iteration_cost,
            self.shaping_gamma,
            self.shaping_scale,
        )

    def source(self) -> FaceSource:
        """The faces.

        :raises DatasetNotFoundError: the data is nowhere to be found
        """
        if isinstance(self.dataset, FaceSource):
            return FaceSource(self.dataset.prepared, self._motion()) if self.frames > 1 else self.dataset
        faces = self.dataset
        if isinstance(faces, str):
            faces = load_dataset(faces, self._split(faces), self.root, self.landmarks, **(self.dataset_options or {}))
        prepared = PreparedFaces(faces, self.normalizer, MARGIN if self.margin is None else self.margin)
        if self.frames > 1:
            return FaceSource(prepared, self._motion())
        if self.augment is False:
            return FaceSource(prepared)
        # torch is imported only for those who augment.
        from face_align_env.augmentation import Augmentation

        if self.augment is True:
            return FaceSource(prepared, Augmentation())
        if isinstance(self.augment, Mapping):
            return FaceSource(prepared, Augmentation(**self.augment))
        return FaceSource(prepared, self.augment)

    def _split(self, dataset: str) -> str:
        """The split under the dataset's own name for it: a task's held-out faces are ``"test"`` with any dataset."""
        if self.split != "test" or "test" in dataset_splits(dataset) or "+" in dataset:
            return self.split
        return dataset_class(dataset).test_split

    def training_faces(self, prepared: PreparedFaces) -> PreparedFaces:
        """The training split, from which the mean shape and the shape modes come.

        :param prepared: the task's faces, of whatever split
        :raises ValueError: they are of another split, and the dataset was given as an object
        """
        if prepared.dataset.is_train:
            return prepared
        if not isinstance(self.dataset, str):
            raise ValueError(
                f"The mean shape comes from the training split, and this is split '{prepared.dataset.split}' of a "
                "dataset given as an object. Give the dataset's name, or "
                "initializer=MeanShape(PreparedFaces(train).mean_shape())."
            )
        first = prepared.dataset.splits[0]
        train = load_dataset(self.dataset, first, self.root, self.landmarks, **(self.dataset_options or {}))
        return PreparedFaces(train, margin=prepared.margin)


def make_task(keywords: Keywords) -> Task:
    """Read the faces and the initializer that the keywords name.

    :raises ValueError: keywords that do not fit the dataset
    :raises DatasetNotFoundError: the data is nowhere to be found
    """
    source = keywords.source()
    prepared = source.prepared
    faces = prepared.dataset
    initializer = keywords.initializer
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
        initializer=make_initializer(
            initializer, prepared.scheme, lambda: keywords.training_faces(prepared).mean_shape(), keywords.device
        ),
        parameters=keywords.parameters(faces.alpha_2),
        termination=keywords.termination,
        terminate_at_limit=keywords.terminate_at_limit,
        action_limit=float(keywords.action_limit),
        patch_size=keywords.patch_size,
        learned_history=keywords.learned_history,
        observe_patches=keywords.observe_patches,
        observe_time=keywords.observe_time,
        observe_residual=keywords.observe_residual,
        frames=keywords.frames,
        keywords=keywords,
    )


def check_keywords(keywords: Mapping[str, Any]) -> Keywords:
    """Check keywords of ``gym.make`` that come from a file or a command line, before any data is read.

    :param keywords: names and values
    :raises ValueError: FaceAlignEnv has no such keyword, or a value makes no sense
    """
    known = [field.name for field in fields(Keywords)]
    for name in keywords:
        if name not in known:
            similar = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean '{similar[0]}'? It has" if similar else "it has"
            raise ValueError(f"FaceAlignEnv has no keyword '{name}'; {hint} {', '.join(known)}.")
    return Keywords(**keywords)


def check_render_mode(render_mode: Any, known: Sequence[str]) -> None:
    """Whether an environment has a render mode; None is not to render.

    :raises ValueError: it has not
    """
    if render_mode is not None and render_mode not in known:
        raise ValueError(f"render_mode must be None or one of {', '.join(known)}, got {render_mode!r}.")


class SpecOfStrings:
    """``spec`` with paths as strings, so that :meth:`gymnasium.envs.registration.EnvSpec.to_json` can write it."""

    _spec: EnvSpec | None = None

    @property
    def spec(self) -> EnvSpec | None:
        """What makes the environment again."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        if spec is not None:
            for name, value in spec.kwargs.items():
                if isinstance(value, os.PathLike):
                    spec.kwargs[name] = os.fspath(value)
        self._spec = spec
