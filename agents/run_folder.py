"""What is where in the folder of a run: stages, weights, configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from face_align_env.agents.dcrn.config import DIGEST, SETTINGS
from face_align_env.agents.run_config import RunConfig
from face_align_env.aligner import FaceAligner
from face_align_env.networks.confidence import ErrorHead
from face_align_env.networks.gain import GainHead
from face_align_env.networks.gen import GEN
from face_align_env.networks.lrn import LRN
from face_align_env.networks.weights import load_weights
from face_align_env.pretrain.recipes import Data
from face_align_env.pretrain.settings import read_json

WEIGHTS = "weights.safetensors"
MEAN_CASCADES = (2, 4, 8)  # LRN-m of Table 6
GEN_CASCADE = 8  # GEN-LRN8
# DCRN's policy is pretrained as a cascade of this length; the paper does not say which. Eq. 3 stops after two or three
# iterations: what a cascade of eight leaves to its last ones, such a policy never does.
POLICY_CASCADE = 4
GEN_CASCADES = (POLICY_CASCADE, GEN_CASCADE)


@dataclass(frozen=True)
class Stage:
    """One training of a run; its weights lie in the folder of its name.

    :param name: ``"gen"``, ``"lrn-2"``, ``"gen-lrn4"``, ``"dcrn"``, ...
    :param iterations: m of a cascade; 0: it is none
    :param needs: names of the stages whose weights it starts from
    """

    name: str
    iterations: int = 0
    needs: tuple[str, ...] = ()

    @property
    def from_gen(self) -> bool:
        """Whether GEN gives x_0; else it is the mean shape."""
        return "gen" in self.needs


def _mean_cascade(m: int) -> Stage:
    return Stage(f"lrn-{m}", m)


def _gen_cascade(m: int) -> Stage:
    return Stage(f"gen-lrn{m}", m, ("gen",))


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("gen"),
        *map(_mean_cascade, MEAN_CASCADES),
        *map(_gen_cascade, GEN_CASCADES),
        Stage("dcrn", needs=("gen", _gen_cascade(POLICY_CASCADE).name)),
    )
}
"""By name, in the order in which they are trained."""

RELEASED_STAGES = (*STAGES["dcrn"].needs, "dcrn")
"""What a release needs."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of ``face-align run``, ``runs/NAME``.

    :param path: the folder; it need not be there yet
    """

    path: Path

    def __init__(self, path: str | os.PathLike[str]) -> None:
        object.__setattr__(self, "path", Path(path))

    @property
    def config(self) -> RunConfig:
        """What the run was made with.

        :raises FileNotFoundError: it is not the folder of a run
        """
        return RunConfig.read(self.path)

    def data(self, root: str | None = None) -> Data:
        """The faces that it has learned from.

        :param root: of the data, where it is not where the run found it
        :raises FileNotFoundError: it is not the folder of a run
        """
        data = self.config.data
        return data if root is None else replace(data, root=root)

    def stage(self, name: str) -> Path:
        """The folder of a stage."""
        return self.path / name

    def weights(self, name: str) -> Path:
        """The weights of a stage."""
        return self.stage(name) / WEIGHTS

    @property
    def gen(self) -> Path:
        """GEN's weights."""
        return self.weights("gen")

    @property
    def agent(self) -> Path:
        """The weights of DCRN's actor."""
        return self.weights("dcrn")

    @property
    def policy(self) -> Path:
        """The weights that DCRN starts from: those of LRN+Eq.3."""
        return self.cascade(POLICY_CASCADE)

    def cascade(self, iterations: int, from_mean: bool = False) -> Path:
        """The weights of GEN-LRNm, or of LRN-m, which starts from the mean shape.

        :param iterations: m
        """
        return self.weights((_mean_cascade if from_mean else _gen_cascade)(iterations).name)

    def learnt_from(self, name: str) -> dict[str, str | None]:
        """What a trained stage has learnt from, by content.

        :param name: of the stage
        :return: SHA-256 of ``"faces"`` and of the weights that it began with: ``"gen"``, ``"policy"`` (of DCRN),
            ``"init"``, ``"taken_from"``; None where there was none, or an older version has not written it down
        :raises WeightsError, ValueError: its file is damaged
        """
        if name == "dcrn":
            path = self.stage(name) / SETTINGS
            settings = read_json(path) if path.is_file() else {}
            try:
                gen = str(settings.get("environment", {}).get("initializer"))
                known = {"faces": settings.get("faces"), "policy": settings.get("lrn_sha256")}
            except AttributeError as error:
                raise ValueError(f"'{path}' is damaged. Remove it, or restore it from a copy.") from error
            return {**known, "gen": gen.removeprefix(DIGEST) if gen.startswith(DIGEST) else None}
        notes = load_weights(self.weights(name), "gen" if name == "gen" else "lrn")[2]
        return {key: notes.get(f"{key}_sha256") for key in ("faces", "gen", "init", "taken_from")}

    def ablation(self, name: str) -> Path:
        """The weights of DCRN's actor in a row of ``face-align ablate``."""
        return self.path / "ablations" / name / WEIGHTS

    def head(self, part: str) -> Path:
        """What ``face-align calibrate`` has fitted: ``confidence`` or ``gain``."""
        return self.path / f"{part}.safetensors"

    @property
    def error_head(self) -> Path:
        """Predicts the error of a face."""
        return self.head("confidence")

    @property
    def gain_head(self) -> Path:
        """Predicts what DCRN's next iteration gains."""
        return self.head("gain")

    def aligner(
        self,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        mirror: bool = False,
        engine: str = "torch",
        least_gain: float | None = None,
    ) -> FaceAligner:
        """GEN and DCRN of the run as an aligner of photos, with the heads that have been fitted for them.

        :param device: where the networks run
        :param dtype: type of their weights
        :param mirror: look at each face twice
        :param engine: what computes the networks
        :param least_gain: stops a face in the place of Eq. 3; see :class:`FaceAligner`
        :raises FileNotFoundError: it is not the folder of a run, or has no such weights yet
        :raises ValueError: ``least_gain``, and nothing has been fitted that predicts it
        """
        alpha_2 = self.config.alpha_2
        return FaceAligner(
            GEN.load(self.gen),
            LRN.load(self.agent),
            alpha_2=alpha_2,
            device=device,
            dtype=dtype,
            mirror=mirror,
            error_head=ErrorHead.load(self.error_head) if self.error_head.is_file() else None,
            engine=engine,
            gain_head=GainHead.load(self.gain_head) if self.gain_head.is_file() else None,
            least_gain=least_gain,
        )
