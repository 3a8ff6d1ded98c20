"""The trainings of a search, handed out by Ray Tune."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

from face_align_env.agents.benchmark.schedule import MEMORY_OF_A_TRIAL
from face_align_env.agents.run_config import RunConfig
from face_align_env.agents.sweep.plan import COMPLETE, FAILED, STOPPED, Record, Sweep, Training
from face_align_env.agents.sweep.trial import STEPS, figures, train_trial
from face_align_env.extras import needs
from face_align_env.progress import Progress

with needs("cluster", "A search"):
    from ray import tune
    from ray.tune import Callback
    from ray.tune.schedulers import ASHAScheduler

RETRIES = 3
"""How often a training begins again because its node has died."""

_KEEP_ONE_IN = 2  # of the trainings at each of ASHA's rungs
# Of GEN alone. Of several stages it is the end of the first: settings of the others are not judged by its middle.
_FIRST_RUNG = 2

# Tune's files are not needed, its banner neither, and Ctrl-C is the command's.
_QUIET = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}

Keep = Callable[[Record], None]


def run_trainings(sweep: Sweep, others: RunConfig, trainings: Sequence[Training], device: str, keep: Keep) -> None:
    """Do them, with the cluster that is connected.

    :param sweep: the search
    :param others: the settings that are not tried
    :param trainings: those that are to be done
    :param device: ``"cpu"``, or ``"cuda"``: a GPU for each
    :param keep: is given the record of each as soon as it has ended
    """
    os.environ.update(_QUIET)
    gpu = device.startswith("cuda")
    configs = [training.config(others).document() for training in trainings]
    train = partial(_train, configs, list(sweep.stages), "cuda" if gpu else device, version("face-align-env"))
    end = STEPS * len(sweep.stages)
    scheduler = ASHAScheduler(
        time_attr="progress",
        max_t=end,
        grace_period=STEPS if len(sweep.stages) > 1 else _FIRST_RUNG,
        reduction_factor=_KEEP_ONE_IN,
    )
    with tempfile.TemporaryDirectory(prefix="face-align-tune-") as storage:
        tune.Tuner(
            tune.with_resources(train, {"cpu": 1, "gpu": int(gpu), "memory": MEMORY_OF_A_TRIAL}),
            param_space={"training": tune.grid_search(list(range(len(trainings))))},
            tune_config=tune.TuneConfig(
                reuse_actors=True, metric="nme", mode="min", scheduler=scheduler if sweep.stop_early else None
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=storage,
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                callbacks=[_Keeper(trainings, keep)],
                verbose=0,
            ),
        ).fit()


def _train(configs: Sequence[Any], stages: Sequence[str], device: str, wanted: str, chosen: dict[str, int]) -> None:
    """One training, in a process of some node.

    :param configs: documents of all trainings' configurations
    :param stages: that are trained
    :param device: of the networks
    :param wanted: the driver's version of this package
    :param chosen: ``training``, which
    """
    torch.set_num_threads(1)
    Progress.quiet = True
    try:
        if version("face-align-env") != wanted:
            raise ValueError(f"This node has face-align-env {version('face-align-env')}, not {wanted}.")
        config = RunConfig.from_document(configs[chosen["training"]], "sweep")
        row = train_trial(config, stages, device, tune.report)
    except Exception as error:  # it is no use to begin again: that is for nodes that die
        tune.report({"progress": 0, "nme": float("inf"), "error": f"{type(error).__name__}: {error}"})
    else:
        tune.report({"progress": STEPS * len(stages), "nme": row.nme, "figures": figures(row)})


class _Keeper(Callback):  # type: ignore[misc, unused-ignore]
    """Makes records of what Tune hears.

    :param trainings: by their number in a trial's configuration
    :param keep: is given each record as soon as its training has ended
    """

    def __init__(self, trainings: Sequence[Training], keep: Keep) -> None:
        self.trainings, self.keep = trainings, keep
        self.records: dict[str, Record] = {}
        self.begun: dict[str, float] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "keep": None}  # Tune pickles what it is given; nothing is restored from that

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.records[trial.trial_id] = Record(self.trainings[trial.config["training"]])  # anew where a node has died
        self.begun[trial.trial_id] = time.monotonic()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        record = self.records[trial.trial_id]
        if "error" in result:
            record.error = str(result["error"])
        elif "figures" in result:
            record.figures, record.status = dict(result["figures"]), COMPLETE
        elif "stage" in result:
            record.curve.append({key: result[key] for key in ("progress", "stage", "nme")})

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self.records[trial.trial_id]
        if record.status == FAILED and not record.error:
            record.status = STOPPED
        self._end(trial, record)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self.records.get(trial.trial_id) or Record(self.trainings[trial.config["training"]])
        record.status, record.error = FAILED, f"Its process or node has died {RETRIES + 1} times."
        self._end(trial, record)

    def _end(self, trial: Any, record: Record) -> None:
        record.seconds = time.monotonic() - self.begun.get(trial.trial_id, time.monotonic())
        self.keep(record)
