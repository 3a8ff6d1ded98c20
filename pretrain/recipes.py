"""What is trained on which faces: data, recipes of each preset, and the settings of ``face-align pretrain``.

Nothing heavy is imported here: the command line is made from these classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from face_align_env.checks import check_number
from face_align_env.datasets import REGISTRY, dataset_class, dataset_splits, load_dataset
from face_align_env.datasets.held_out import MOST_HELD_OUT, VALIDATION
from face_align_env.pretrain.settings import Settings, check_keywords, setting

if TYPE_CHECKING:
    from face_align_env.augmentation import Augmentation
    from face_align_env.prepared import PreparedFaces
    from face_align_env.pretrain.objectives import StartJitter, VisitedStates

MadeT = TypeVar("MadeT")

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
ENCODER_SHARE = 0.5
"""Of the patches, that LRN's encoder learns from in a step: see
:class:`~face_align_env.pretrain.objectives.SampledEncoder`."""
HELD_OUT = "held_out"
"""Keyword of :func:`~face_align_env.datasets.load_dataset` for every dataset."""


@dataclass(frozen=True)
class TrainingConfig(Settings):
    """How to train.

    :param epochs: passes over the training faces
    :param batch_size: faces a step, over all devices together; 128 in section 4.2
    :param learning_rate: Adam's, at its highest
    :param warmup: fraction of the steps in which the rate rises to it; then it falls along a cosine to zero
    :param clip: largest norm of the gradient
    :param seed: of the order of faces, augmentation, dropout, jitter and (with it) initialisation
    :param checkpoint_seconds: time between checkpoints
    """

    epochs: int = setting(200, least=1)
    batch_size: int = setting(128, least=1)
    learning_rate: float = setting(1e-3, above=0)
    warmup: float = setting(0.05, least=0, most=1)
    clip: float = setting(1.0, above=0)
    seed: int = setting(0, least=0)
    checkpoint_seconds: float = setting(60.0, least=0)

    def steps(self, faces: int) -> int:
        """Steps of a training on so many faces."""
        return max(1, math.ceil(self.epochs * faces / self.batch_size))

    def learning_rate_at(self, step: int, total: int) -> float:
        """Linear warm-up, then half a cosine."""
        rising = max(1, round(self.warmup * total))
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))

    def changed(self, **changes: Any) -> TrainingConfig:
        """With other values, where they are not None."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


@dataclass(frozen=True)
class Recipe:
    """Networks and training of one preset.

    :param gen: GEN's preset
    :param lrn: LRN's preset
    :param gen_training: how GEN is trained
    :param lrn_training: how each LRN is trained
    """

    gen: str
    lrn: str
    gen_training: TrainingConfig
    lrn_training: TrainingConfig


RECIPES = {
    "paper": Recipe("paper", "paper", TrainingConfig(epochs=300, learning_rate=3e-4), TrainingConfig(epochs=150)),
    "compact": Recipe(
        "compact", "compact", TrainingConfig(epochs=400, batch_size=64), TrainingConfig(epochs=150, batch_size=64)
    ),
    "mdm": Recipe("compact", "mdm", TrainingConfig(epochs=400), TrainingConfig(epochs=150, learning_rate=5e-4)),
    "tiny": Recipe(
        "tiny",
        "tiny",
        TrainingConfig(epochs=60, batch_size=64, learning_rate=2e-3),
        TrainingConfig(epochs=16, batch_size=64),
    ),
}


def recipe(name: str) -> Recipe:
    """The recipe of a preset.

    :raises ValueError: when there is no preset of that name
    """
    if name not in RECIPES:
        raise ValueError(f"Unknown preset '{name}'; there are {', '.join(RECIPES)}.")
    return RECIPES[name]


def check_preset(settings: Settings) -> None:
    """Look at a setting ``preset``.

    :raises SettingError: there is no recipe of that name
    """
    name = settings.preset  # type: ignore[attr-defined]
    if name not in RECIPES:
        settings.refuse("preset", f"'{name}' is unknown; there are {', '.join(RECIPES)}.")


@dataclass(frozen=True)
class Data(Settings):
    """Which faces: the arguments of :func:`face_align_env.datasets.load_dataset`.

    :param dataset: which faces: synthetic, 300w, cofw, aflw, ytf, pts; several of one landmark scheme joined by '+'
    :param root: folder of the data; default: $FACE_ALIGN_DATA/NAME, else ~/.cache/face-align/NAME
    :param landmarks: number of landmarks, where the dataset offers several (68, 29, 19)
    :param options: keyword of the dataset as KEY=VALUE (boxes=detector, size=500); repeat for more. held_out=0.2: a
        fifth of the training faces is the test split instead, to choose settings by
    """

    title: ClassVar[str] = "Data"

    dataset: str = setting("synthetic")
    root: str | None = setting()
    landmarks: int | None = setting(least=1)
    options: dict[str, Any] | None = setting(flag="--option")

    def check(self) -> None:
        """Look at the names of the dataset and of its options; the data itself is not searched for.

        :raises SettingError: there is no such dataset, or it takes no such option
        """
        options = dict(self.options or {})
        if HELD_OUT in options:
            try:
                check_number(HELD_OUT, options.pop(HELD_OUT), above=0, most=MOST_HELD_OUT)
            except ValueError as error:
                self.refuse("options", f"makes no sense: {error}")
        rest = replace(self, options=options)
        for name in self.dataset.split("+"):
            if name not in REGISTRY:
                self.refuse("dataset", f"'{name}' is unknown; there are {', '.join(REGISTRY)} (join several with '+').")
            own = {"split": "--split", "root": "--root", "landmarks": "--landmarks"}
            kind = dataset_class(name)
            check_keywords(rest, "options", kind, own)
            if self.landmarks not in (None, *kind.schemes):
                known = ", ".join(map(str, kind.schemes))
                self.refuse("landmarks", f"must be one of {known} on {name}, got {self.landmarks}.")

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, the training split first; with faces held out there are these and the others only."""
        train, *others = dataset_splits(self.dataset)
        return (train, *([VALIDATION] if HELD_OUT in (self.options or {}) else others))

    @property
    def test_split(self) -> str:
        """What is measured on where no split is named: of a joined dataset, its first part's."""
        if HELD_OUT in (self.options or {}):
            return VALIDATION
        return dataset_class(self.dataset.partition("+")[0]).test_split

    @property
    def whole(self) -> Data:
        """The same with no faces held out."""
        options = {key: value for key, value in (self.options or {}).items() if key != HELD_OUT}
        return replace(self, options=options or None)

    def prepare(self, split: str | None = None, max_cached: int = 0) -> PreparedFaces:
        """The faces of a split (None: the test split)."""
        from face_align_env.prepared import PreparedFaces

        faces = load_dataset(self.dataset, split or self.test_split, self.root, self.landmarks, **(self.options or {}))
        return PreparedFaces(faces, max_cached=max_cached)


@dataclass(frozen=True)
class GENTraining(Settings):
    """What ``face-align pretrain gen`` trains.

    :param preset: networks and recipe: tiny (CPU trials), compact, paper (Table 1), mdm (LRN as in MDM)
    :param epochs: passes over the faces; default: the recipe's
    :param batch_size: faces a step; default: the recipe's
    :param learning_rate: Adam's, at its highest; default: the recipe's
    :param augmentation: range of the random views as KEY=VALUE (rotation=40, blur=0); repeat for more
    :param precision: 32-true, bf16-mixed or 16-mixed; default: bf16-mixed on CUDA, else 32-true
    :param seed: seed of everything random
    :param init: weights of the same kind of network, or the name of a release, that the training starts from
        (fine-tuning), of the same landmarks or of some that contain them; default: fresh ones
    """

    title: ClassVar[str] = "Training"

    data: Data = field(default_factory=Data)
    preset: str = setting("compact")
    epochs: int | None = setting(least=1)
    batch_size: int | None = setting(least=1)
    learning_rate: float | None = setting(above=0)
    augmentation: dict[str, float] | None = setting()
    precision: str | None = setting(choices=PRECISIONS)
    seed: int = setting(0, least=0)
    init: str | None = setting()

    @property
    def views(self) -> Augmentation:
        """The random views of the training faces."""
        return make_views(self)

    def check(self) -> None:
        """Look at the names in the settings.

        :raises SettingError: there is no such preset, dataset or keyword
        """
        check_preset(self)
        self.data.check()
        make_views(self)

    def training(self, of_recipe: TrainingConfig) -> TrainingConfig:
        """A recipe's training with these settings."""
        changes = {"epochs": self.epochs, "batch_size": self.batch_size, "learning_rate": self.learning_rate}
        return of_recipe.changed(seed=self.seed, **changes)


@dataclass(frozen=True)
class LRNTraining(GENTraining):
    """What ``face-align pretrain lrn`` trains.

    :param start: where x_0 comes from: gen or mean
    :param iterations: length m of the cascade
    :param jitter: how GEN's x_0 is moved as KEY=VALUE (shift=0, scale, rotation); repeat for more
    :param visited: faces that are rolled forward before the trained iterations, as KEY=VALUE (share=0.6, depth=8);
        repeat for more. share=0: none. Default: those of a cascade that starts from GEN
    :param encoder_share: of the patches, that the encoder learns from in a step: half of them teach it nearly as much,
        and its passes take little more than half the time; 1: all
    """

    start: str = setting("gen", flag="--from", choices=("gen", "mean"))
    iterations: int = setting(8, least=1)
    jitter: dict[str, float] | None = setting()
    visited: dict[str, float] | None = setting()
    encoder_share: float = setting(ENCODER_SHARE, above=0, most=1)

    @property
    def start_jitter(self) -> StartJitter:
        """How GEN's x_0 is moved."""
        return make_jitter(self)

    @property
    def visited_states(self) -> VisitedStates | None:
        """Where the trained iterations begin; None: by where x_0 comes from."""
        return make_visited(self) if self.visited else None

    def check(self) -> None:
        super().check()
        if self.start == "mean" and self.jitter:
            self.refuse("jitter", "moves GEN's x_0, and with --from mean there is none.")
        make_jitter(self)
        make_visited(self)


def make_views(settings: Any) -> Augmentation:
    """The random views of a setting ``augmentation``.

    :raises SettingError: it makes no sense
    """
    from face_align_env.augmentation import Augmentation

    return _make(settings, "augmentation", Augmentation)


def make_jitter(settings: Any) -> StartJitter:
    """The moves of x_0 of a setting ``jitter``.

    :raises SettingError: it makes no sense
    """
    from face_align_env.pretrain.objectives import StartJitter

    return _make(settings, "jitter", StartJitter)


def make_visited(settings: Any) -> VisitedStates:
    """Where the trained iterations begin, by a setting ``visited``.

    :raises SettingError: it makes no sense
    """
    from face_align_env.pretrain.objectives import VisitedStates

    return _make(settings, "visited", VisitedStates)


def _make(settings: Settings, name: str, kind: type[MadeT]) -> MadeT:
    check_keywords(settings, name, kind)
    try:
        return kind(**(getattr(settings, name) or {}))
    except ValueError as error:
        settings.refuse(name, f"makes no sense: {error}")
