"""face-align sweep: settings tried on a Ray cluster, measured on training faces that are held out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

pytest.importorskip("lightning", reason="the extra train is not installed")
pytest.importorskip("ray", reason="the extra cluster is not installed")

from face_align_env.agents.cli.app import app
from face_align_env.agents.run_config import RunConfig
from face_align_env.agents.sweep import search as searches
from face_align_env.agents.sweep import tuner
from face_align_env.agents.sweep.plan import COMPLETE, FAILED, STOPPED, Record, Sweep, Training
from face_align_env.agents.sweep.search import BEST, RESULTS, search, settings_of
from face_align_env.agents.sweep.space import Space
from face_align_env.agents.sweep.trial import STEPS, train_trial
from face_align_env.pretrain.recipes import Data

CONFIG = RunConfig(Data("synthetic", None, 19, {"size": 60}), preset="tiny", gen_epochs=2, lrn_epochs=1)
SPACE = Space.parse(["gen-epochs=1,20"])


def sweep(**changes: Any) -> Sweep:
    return replace(Sweep(CONFIG, SPACE, trials=2, stages=("gen",), stop_early=False), **changes)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / RESULTS).open(newline="") as file:
        return list(csv.DictReader(file))


def quiet() -> Console:
    return Console(file=io.StringIO())


# -- a training --------------------------------------------------------------------------------------------------------


def test_a_training_is_measured_on_faces_that_are_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """And looks at no face of the test split."""
    seen = set()
    prepare = Data.prepare

    def spy(data: Data, split: str | None = None, max_cached: int = 0) -> Any:
        prepared = prepare(data, split, max_cached)
        seen.add(prepared.dataset.split)
        return prepared

    monkeypatch.setattr(Data, "prepare", spy)
    told: list[dict[str, Any]] = []
    measured = replace(sweep().measured, gen_epochs=6)
    row = train_trial(measured, ["gen-lrn4", "gen"], "cpu", told.append)
    assert seen == {"train", "validation"}
    assert row.method == "GEN-LRN4"
    assert 0 < row.nme < 100
    assert [each["stage"] for each in told] == sorted((each["stage"] for each in told), key=["gen", "gen-lrn4"].index)
    progress = [each["progress"] for each in told]
    assert progress == sorted(set(progress))
    assert STEPS in progress
    assert progress[-1] == 2 * STEPS - 1
    with pytest.raises(ValueError, match="must not see test faces"):
        train_trial(CONFIG, ["gen"], "cpu", told.append)


def test_the_best_setting_has_the_least_mean_over_its_seeds() -> None:
    def record(trial: int, seed: int, nme: float, status: str = COMPLETE) -> Record:
        figures = {"nme": nme, "iterations": 2.0} if status == COMPLETE else None
        return Record(Training(trial, seed, {"alpha-2": trial}), status, figures=figures)  # type: ignore[arg-type]

    records = [record(0, 0, 5), record(0, 1, 7), record(1, 0, 4), record(1, 1, 9, FAILED), record(2, 0, 5.5)]
    records += [record(2, 1, 5.7), record(3, 0, 1, STOPPED), record(3, 1, 1)]
    assert [(each.trial, each.nme) for each in settings_of(records, 2)] == [(2, 5.6), (0, 6.0)]


def test_a_record_comes_back_from_its_file(tmp_path: Path) -> None:
    record = Record(
        Training(3, 1, {"alpha-2": 2.5}), STOPPED, [{"progress": 1, "stage": "gen", "nme": 9.0}], None, "", 4
    )
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record.document()))
    assert Record.read(path) == record
    path.write_text('{"training": {"trial": 1}}')
    with pytest.raises(ValueError, match=r"record.json' is no record of a search's training"):
        Record.read(path)


# -- a search without Ray ----------------------------------------------------------------------------------------------


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trainings are done one after the other, here, and not trained at all; their names."""
    done: list[str] = []

    def run(sweep: Sweep, others: RunConfig, trainings: Sequence[Training], device: str, keep: Any) -> None:
        for training in trainings:
            done.append(training.name)
            failed = training.trial == 1 and len(done) == 2
            nme = float(training.values["gen-epochs"]) + training.seed
            figures = {"nme": nme, "iterations": 0.0, "mean_return": None}
            keep(Record(training, FAILED if failed else COMPLETE, [], None if failed else figures, "x" * failed))

    monkeypatch.setattr(searches, "run_trainings", run)
    monkeypatch.setattr(searches, "connected", lambda cluster: nullcontext())
    return done


def test_what_is_done_is_not_done_again_and_what_has_failed_is(without_ray: list[str], tmp_path: Path) -> None:
    assert not search(sweep(), tmp_path, console=quiet())
    assert [row["status"] for row in rows(tmp_path)] == [COMPLETE, FAILED]
    assert search(sweep(), tmp_path, console=quiet())
    assert without_ray == ["0000-seed-0", "0001-seed-0", "0001-seed-0"]
    search(sweep(seeds=2), tmp_path, console=quiet())
    assert without_ray[3:] == ["0000-seed-1", "0001-seed-1"]
    best = json.loads((tmp_path / BEST).read_text())
    assert best["settings"] == {"gen-epochs": 1}
    assert best["held_out_nme_percent"] == 1.5
    assert "face-align run" in best["command"]
    assert "--gen-epochs 1 " in best["command"]
    assert "held_out" not in best["command"]


def test_a_folder_of_another_search_is_refused(without_ray: list[str], tmp_path: Path) -> None:
    search(sweep(), tmp_path, console=quiet())
    with pytest.raises(ValueError, match=r"held_out: 0\.2 before, 0\.3 now"):
        search(sweep(held_out=0.3), tmp_path, console=quiet())


def test_mistakes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words, message in {
        ("--search", "nonsense=1,2"): "--search has no setting 'nonsense'",
        ("--search", "gen-epochs=1,2", "--held-out", "1.5"): "held_out must be",
        ("--search", "gen-epochs=1,2", "--stage", "lrn-2"): "--stage must have gen",
        ("--search", "gen-epochs=1,2", "--option", "held_out=0.5"): "use --held-out",
    }.items():
        result = CliRunner().invoke(app, ["sweep", *words])
        assert result.exit_code == 2
        assert message in result.stderr
    assert not list(tmp_path.iterdir())


# -- on Ray ------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(600)
def test_a_search_loses_a_node_and_nothing_else(
    three_nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, run = [], searches.run_trainings

    def kill_one(*arguments: Any) -> None:
        *others, keep = arguments

        def kept(record: Record) -> None:
            keep(record)
            if not killed:  # others are being trained
                killed.append(three_nodes.nodes[-1])
                three_nodes.remove_node(three_nodes.nodes[-1], allow_graceful=False)

        run(*others, kept)

    monkeypatch.setattr(searches, "run_trainings", kill_one)
    space = Space.parse(["gen-epochs=1,40", "lrn-learning-rate=0.001,1e20"])
    wanted = sweep(config=replace(CONFIG, lrn_epochs=12), space=space, trials=4, stages=("gen", "gen-lrn4"))
    assert not search(wanted, tmp_path, three_nodes.address, console=quiet())
    assert killed
    found = rows(tmp_path)
    assert len(found) == 4
    for row in found:  # a training that cannot be done says why, and is not begun again and again
        diverged = float(row["lrn-learning-rate"]) > 1
        assert row["status"] == (FAILED if diverged else COMPLETE)
        assert bool(row["error"]) == diverged
    short, long = sorted((row for row in found if row["nme"]), key=lambda row: int(row["gen-epochs"]))
    assert float(long["nme"]) < float(short["nme"])
    assert json.loads((tmp_path / BEST).read_text())["settings"]["gen-epochs"] == 40


@pytest.mark.timeout(600)
def test_trainings_that_fall_behind_are_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One processor, so that the worst comes last and meets the rungs that the others have left."""
    import ray

    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setattr(tuner, "MEMORY_OF_A_TRIAL", 1_000_000)
    init = ray.init
    monkeypatch.setattr(ray, "init", lambda *args, **keywords: init(*args, num_cpus=1, **keywords))
    wanted = sweep(space=Space.parse(["gen-epochs=10,60,61"]), trials=3, stop_early=True)
    config = next(
        replace(CONFIG, seed=seed)
        for seed in range(100)
        if (wanted.space.values(2, seed) or {})["gen-epochs"] == 10  # the last one
    )
    assert search(replace(wanted, config=config), tmp_path, console=quiet())
    first, second, last = rows(tmp_path)
    assert first["status"] == COMPLETE, "it had nobody to fall behind"
    assert last["status"] == STOPPED
    assert last["last_nme"]
    assert not last["nme"]
    assert json.loads((tmp_path / BEST).read_text())["settings_complete"] == 1 + (second["status"] == COMPLETE)
