"""``face-align run``: the whole path of the paper in one folder, each stage where the last one left it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from face_align_env.agents.dcrn.training import train_dcrn
from face_align_env.agents.evaluation.run_evaluation import evaluate
from face_align_env.agents.run_config import RunConfig
from face_align_env.agents.run_folder import STAGES, RunFolder, Stage
from face_align_env.crops import CROP_SIZE
from face_align_env.datasets import load_dataset
from face_align_env.files import locked_folder
from face_align_env.keywords import check_keywords, make_task
from face_align_env.networks.gen import GEN
from face_align_env.networks.lrn import LRN
from face_align_env.networks.weights import file_digest
from face_align_env.prepared import faces_digest
from face_align_env.pretrain.loop import Watch, make_fabric
from face_align_env.pretrain.recipes import recipe
from face_align_env.pretrain.settings import SettingError
from face_align_env.pretrain.stages import FacesOnDevice, pretrain_gen, pretrain_lrn, starting_network
from face_align_env.released import weights_file

if TYPE_CHECKING:
    from lightning.fabric import Fabric


_SOURCES = {
    "faces": "other faces",
    "gen": "another GEN",
    "policy": "another pretrained policy",
    "init": "other weights (--gen-init, --lrn-init)",
    "taken_from": "another --gen",
}


StageWatch = Callable[[str, float, float], None]
"""Is told each measurement of a supervised stage: its name, the share of its steps that are done, the NME (a fraction)
on the test split."""


def run(
    config: RunConfig,
    folder: str | os.PathLike[str],
    device: str = "auto",
    console: Console | None = None,
    stages: Sequence[str] | None = None,
) -> None:
    """Train GEN, the cascades and DCRN, and evaluate; stages that are complete are left as they are.

    Everything that can be known to be wrong is an error before anything is written or trained. A complete stage must
    have learnt from the faces and networks that are there now, whatever the folders are called.

    :param config: what to do
    :param folder: the run's folder
    :param device: ``"auto"``, ``"cpu"``, ``"cuda"``
    :param console: where to say what happens
    :param stages: some of :data:`STAGES`; None: all. What is there is evaluated
    :raises ValueError: there is no such stage, one of them needs another that is not there, a setting makes no
        sense, or a complete stage has learnt from something else
    :raises DatasetNotFoundError: the data is nowhere to be found
    :raises FolderInUseError: another process works in the folder
    """
    console = console or Console()
    work, wanted = _prepared(config, folder, device, stages)
    with locked_folder(work.place.path):
        steps = len(wanted) + 1
        work.train_all(wanted, steps, console)
        if not work.place.gen.is_file():
            console.print(f"{steps}/{steps} evaluate: stage gen comes first")
            return
        console.print(f"{steps}/{steps} evaluate")
        evaluate(work.place.path, device=str(work.fabric.device), console=console)


def train_stages(
    config: RunConfig,
    folder: str | os.PathLike[str],
    device: str = "auto",
    console: Console | None = None,
    stages: Sequence[str] | None = None,
    watch: StageWatch | None = None,
) -> RunFolder:
    """As :func:`run`, without the evaluation.

    :param watch: is told each measurement of the supervised stages
    :return: the run's folder
    """
    work, wanted = _prepared(config, folder, device, stages, watch)
    with locked_folder(work.place.path):
        work.train_all(wanted, len(wanted), console or Console())
    return work.place


def _prepared(
    config: RunConfig,
    folder: str | os.PathLike[str],
    device: str,
    stages: Sequence[str] | None,
    watch: StageWatch | None = None,
) -> tuple[_Work, tuple[Stage, ...]]:
    """What is about to be done, looked at before anything is written."""
    place = RunFolder(folder)
    wanted = stages_of(stages, place)
    config = checked(config)
    fabric = make_fabric(device, config.precision)
    work = _Work(config, place, fabric, FacesOnDevice(config.data, fabric.device), watch)
    work.look_at_networks([stage for stage in wanted if not place.weights(stage.name).is_file()])
    return work, wanted


def checked(config: RunConfig) -> RunConfig:
    """The configuration with the dataset's alpha_2 where it has none; the data is there, and DCRN's environment works.

    :raises ValueError: a setting makes no sense
    :raises DatasetNotFoundError: the data is nowhere to be found
    """
    config.check()
    if config.alpha_2 is None:
        data = config.data
        faces = load_dataset(data.dataset, "train", data.root, data.landmarks, **(data.options or {}))
        config = replace(config, alpha_2=faces.alpha_2)
    make_task(check_keywords({**config.env_options("mean"), "learned_history": True}))
    return config


@dataclass(frozen=True)
class _Work:
    """A run and what its stages share.

    :param config: what to do
    :param place: where it goes
    :param fabric: device and precision
    :param faces: what is learnt from
    :param watch: is told each measurement of the supervised stages
    """

    config: RunConfig
    place: RunFolder
    fabric: Fabric
    faces: FacesOnDevice
    watch: StageWatch | None = None

    @property
    def title(self) -> str:
        """What is about to be done."""
        train, config = self.faces.prepared("train"), self.config
        return (
            f"Run in {self.place.path}: {config.data.dataset}, {len(train)} training faces, "
            f"{train.scheme.num_landmarks} landmarks, preset {config.preset}, seed {config.seed}, "
            f"on {self.fabric.device}."
        )

    def look_at_networks(self, stages: Sequence[Stage]) -> None:
        """Whether these stages can begin with the networks that the configuration names.

        :raises FileNotFoundError, WeightsError, ValueError: one is not there, or does not fit
        """
        config, networks = self.config, recipe(self.config.preset)
        if not (config.gen or config.gen_init or config.lrn_init):
            return
        num_landmarks = self.faces.prepared("train").scheme.num_landmarks
        names = {stage.name for stage in stages}
        if "gen" in names and config.gen is not None:
            gen_of(config.gen, num_landmarks)
        elif "gen" in names and config.gen_init is not None:
            starting_network(GEN, config.gen_init, networks.gen, num_landmarks)
        if config.lrn_init is not None and any(stage.from_gen for stage in stages if stage.name != "dcrn"):
            starting_network(LRN, config.lrn_init, networks.lrn, num_landmarks)

    def train_all(self, stages: Sequence[Stage], steps: int, console: Console) -> None:
        """Train what is not complete, in the run's folder, which nobody else works in.

        :param stages: which
        :param steps: of the whole work, for the console
        :raises ValueError: a complete stage has learnt from something else
        """
        self.config.write(self.place.path)
        console.print(self.title)
        for stage in STAGES.values():
            self.compare(stage)
        self.read_faces(stages)
        for number, stage in enumerate(stages, 1):
            complete = self.place.weights(stage.name).is_file()
            console.print(f"{number}/{steps} {stage.name}{': complete' if complete else ''}")
            if complete:
                self.compare(stage)  # what it starts from may have been trained just now
            else:
                self.train(stage)

    def compare(self, stage: Stage) -> None:
        """Compare what a complete stage has learnt from, by content, with what is there now.

        What is not there any more, and what older versions have not written down, is not compared.

        :raises ValueError: it has learnt from something else
        """
        if not self.place.weights(stage.name).is_file():
            return
        before, now = self.place.learnt_from(stage.name), {"faces": faces_digest(self.faces.prepared("train"))}
        sources = {"gen": self.place.gen} if stage.needs else {}
        if stage.name == "gen" and self.config.gen is not None:
            sources["taken_from"] = weights_file(self.config.gen)
        elif stage.name == "gen" and self.config.gen_init is not None:
            sources["init"] = weights_file(self.config.gen_init)
        elif stage.name == "dcrn":
            sources["policy"] = self.place.policy
            if "normalizer" in (self.config.environment or {}):
                del now["faces"]  # its faces have distances of their own
        elif stage.from_gen and self.config.lrn_init is not None:
            sources["init"] = weights_file(self.config.lrn_init)
        now |= {name: file_digest(path) for name, path in sources.items() if path.is_file()}
        for name, digest in now.items():
            if before.get(name) not in (None, digest):
                raise ValueError(
                    f"'{self.place.stage(stage.name)}' has learnt from {_SOURCES[name]} than there is now. Remove that "
                    "folder to train the stage again, or use another folder for the run (--name)."
                )

    def read_faces(self, stages: Sequence[Stage]) -> None:
        """Read the faces once, at full size, if a supervised stage needs them: GEN's crops are made from these."""
        if not all(self.place.weights(stage.name).is_file() for stage in stages if stage.name != "dcrn"):
            for part in ("train", "test"):
                self.faces(part, CROP_SIZE)

    def train(self, stage: Stage) -> None:
        """Train a stage to its end."""
        if stage.name == "gen":
            self._train_gen()
        elif stage.name == "dcrn":
            self._train_dcrn()
        else:
            self._train_cascade(stage)

    def _train_gen(self) -> None:
        config, into = self.config, self.place.stage("gen")
        if config.gen is not None:
            gen = gen_of(config.gen, self.faces.prepared("train").scheme.num_landmarks)
            gen.save(self.place.gen, {"taken_from_sha256": file_digest(weights_file(config.gen))})
            return
        networks = recipe(config.preset).gen
        watch = self._watch("gen")
        pretrain_gen(self.faces, networks, config.gen_training, into, self.fabric, config.views, config.gen_init, watch)

    def _watch(self, name: str) -> Watch | None:
        return None if self.watch is None else partial(self.watch, name)

    def _train_cascade(self, stage: Stage) -> None:
        config = self.config
        pretrain_lrn(
            self.faces,
            recipe(config.preset).lrn,
            config.lrn_training,
            self.place.stage(stage.name),
            self.fabric,
            self.place.gen if stage.from_gen else None,
            stage.iterations,
            config.views,
            jitter=config.start_jitter,
            visited=config.visited_states if stage.from_gen else None,
            encoder_share=config.encoder_share,
            init=config.lrn_init if stage.from_gen else None,
            watch=self._watch(stage.name),
        )

    def _train_dcrn(self) -> None:
        config, place = self.config, self.place
        train_dcrn(
            place.policy,
            config.agent,
            place.stage("dcrn"),
            str(self.fabric.device),
            config.views,
            config.seed,
            **config.env_options(str(place.gen)),
        )


def gen_of(source: str | os.PathLike[str], num_landmarks: int) -> GEN:
    """A GEN that has been trained elsewhere, on these landmarks or on some that contain them.

    :param source: the file of its weights or of a release, or the name of a release
    :param num_landmarks: K of the run's faces
    :raises FileNotFoundError, WeightsError: see :meth:`GEN.load`
    :raises ValueError: it is of a landmark scheme that does not contain the faces' own
    """
    gen = GEN.load(weights_file(source))
    if gen.num_landmarks == num_landmarks:
        return gen
    try:
        return gen.for_landmarks(num_landmarks)
    except ValueError as error:
        raise ValueError(
            f"The GEN in '{os.fspath(source)}' predicts {gen.num_landmarks} landmarks, the dataset has "
            f"{num_landmarks}, and {error} Take one of the same landmarks."
        ) from error


def stages_of(names: Sequence[str] | None, place: RunFolder) -> tuple[Stage, ...]:
    """The stages of these names, in the order in which they are trained.

    :raises ValueError: there is no such stage, or one needs another that is neither named nor trained
    """
    unknown = [name for name in names or [] if name not in STAGES]
    if unknown:
        raise SettingError("stage", "--stage", f"'{unknown[0]}' is unknown; there are {', '.join(STAGES)}.")
    wanted = tuple(stage for stage in STAGES.values() if names is None or stage.name in names)
    trained = {stage.name for stage in wanted}
    for stage in wanted:
        for needed in stage.needs:
            if needed not in trained and not place.weights(needed).is_file():
                raise ValueError(
                    f"Stage {stage.name} needs {needed}, which '{place.path}' does not have: train it, too."
                )
    return wanted
