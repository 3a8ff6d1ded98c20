"""What ``face-align train`` trains; nothing heavy is imported here, the command line is made from these classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from face_align_env.pretrain.recipes import Data, make_views
from face_align_env.pretrain.settings import Settings, check_keywords, setting

if TYPE_CHECKING:
    from face_align_env.augmentation import Augmentation

SETTINGS = "settings.json"  # of a training's folder: everything that has shaped it
DIGEST = "sha256 "  # before a file's digest there, in the place of its path

# Keywords of DCRN and of FaceAlign-v0 that are options by themselves, or given by the training.
_OF_DCRN = {
    "preset": "--agent",
    "batch_size": "--batch-size",
    "gradient_steps": "--gradient-steps",
    "seed": "--seed",
    "device": "--device",
    "lrn": "the pretrained LRN",
    **dict.fromkeys(("policy", "env", "tensorboard_log", "verbose", "_init_setup_model"), "Python"),
}
_OF_ENVIRONMENT = {
    "dataset": "--dataset",
    "root": "--root",
    "landmarks": "--landmarks",
    "dataset_options": "--option",
    "alpha_2": "--alpha-2",
    "augment": "--augmentation, --no-augment",
    "initializer": "GEN's weights",
    **dict.fromkeys(("action_limit", "patch_size"), "an LRN that was trained with it"),
    **dict.fromkeys(("learned_history", "device"), "Python"),
}
_ANY = (-float("inf"), float("inf"))
_BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("learning_rate", "critic_learning_rate"), (1e-12, 1e6)),
    **dict.fromkeys(("tau", "gamma"), (0, 1)),
    **dict.fromkeys(("learning_starts", "critic_warmup", "imitation_weight", "noise", "gain_noise"), (0, float("inf"))),
    **dict.fromkeys(("buffer_size", "train_freq"), (1, float("inf"))),
}


@dataclass(frozen=True)
class AgentConfig(Settings):
    """How DCRN learns.

    :param timesteps: transitions that DCRN collects, over all faces of the batch together
    :param num_envs: faces at once
    :param gradient_steps: updates after each step of the batch of faces
    :param batch_size: transitions an update; 128 in section 4.2
    :param preset: DCRN's preset: stable, or paper (Algorithm 1 to the letter)
    :param augment: random views of the training faces in DCRN's episodes
    :param checkpoint_timesteps: transitions between checkpoints
    :param overrides: keyword of DCRN as KEY=VALUE (imitation_weight=0, noise=2); repeat for more
    """

    title: ClassVar[str] = "DCRN"
    retired: ClassVar[tuple[str, ...]] = ("seed",)  # a run's is the seed of all its stages

    timesteps: int = setting(50_000, least=1)
    num_envs: int = setting(64, least=1)
    gradient_steps: int = setting(4, least=1)
    batch_size: int = setting(128, least=1)
    preset: str = setting("stable", flag="--agent")
    augment: bool = setting(True)
    checkpoint_timesteps: int = setting(10_000, flag="", least=1)
    overrides: dict[str, Any] | None = setting(flag="--set")

    def check(self) -> None:
        """Look at the preset and at the keywords of DCRN before hours of pretraining are spent on them.

        :raises SettingError: there is no such preset or keyword, or its value makes no sense
        """
        from face_align_env.agents.dcrn.algorithm import DCRN, PRESETS

        if self.preset not in PRESETS:
            self.refuse("preset", f"'{self.preset}' is unknown; there are {', '.join(PRESETS)}.")
        check_keywords(self, "overrides", DCRN, _OF_DCRN)
        for key, value in (self.overrides or {}).items():
            low, high = _BOUNDS.get(key, _ANY)
            if isinstance(value, int | float) and not low <= value <= high:
                self.refuse("overrides", f"{key} must lie in {low:g} .. {high:g}, got {value}.")


@dataclass(frozen=True)
class DCRNTraining(Settings):
    """What DCRN is trained on, and how.

    :param seed: seed of everything random
    :param alpha_2: Eq. 3's bound, pixels; default: Table 2's for the dataset
    :param environment: keyword of the environment in which RL trains as KEY=VALUE (reward=dense, iteration_cost=0.1);
        repeat for more. Measured is always under the paper's
    :param augmentation: range of the random views as KEY=VALUE (rotation=40, blur=0); repeat for more
    """

    title: ClassVar[str] = "Training"

    data: Data = field(default_factory=Data)
    seed: int = setting(0, least=0)
    agent: AgentConfig = field(default_factory=AgentConfig)
    alpha_2: float | None = setting(above=0)
    environment: dict[str, Any] | None = setting(flag="--env")
    augmentation: dict[str, float] | None = setting()

    @property
    def views(self) -> Augmentation:
        """The random views of the training faces."""
        return make_views(self)

    def check(self) -> None:
        """Look at everything that can be known to be wrong before anything is trained or written.

        :raises SettingError: a name or a value makes no sense
        """
        self.data.check()
        self.agent.check()
        check_environment(self)
        make_views(self)

    def env_options(self, gen: str) -> dict[str, Any]:
        """Keywords of ``gym.make`` for the training.

        :param gen: GEN's weights, which start the episodes
        """
        return {
            "initializer": gen,
            "alpha_2": self.alpha_2,
            "dataset": self.data.dataset,
            "root": self.data.root,
            "landmarks": self.data.landmarks,
            "dataset_options": dict(self.data.options or {}),
            **(self.environment or {}),
        }


def check_environment(settings: Settings) -> None:
    """Look at a setting ``environment``, keywords of ``gym.make``.

    :raises SettingError: FaceAlignEnv has no such keyword, or its value makes no sense
    """
    from face_align_env.keywords import check_keywords as check_task

    options = settings.environment or {}  # type: ignore[attr-defined]
    for key in options:
        if key in _OF_ENVIRONMENT:
            settings.refuse("environment", f"cannot set '{key}': use {_OF_ENVIRONMENT[key]}.")
    try:
        check_task(options)
    except ValueError as error:
        settings.refuse("environment", f"makes no sense: {error}")
