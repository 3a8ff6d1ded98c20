"""``face-align speed``: its clockwork with a fake clock, and that it measures every group; no figure is judged."""

from __future__ import annotations

import io
import json
import math
import mmap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from face_align_env.agents.cli.app import app
from face_align_env.agents.speed import memory
from face_align_env.agents.speed.environments import random_cycle
from face_align_env.agents.speed.measure import Baseline, Entry, Limit, interleave, timed
from face_align_env.agents.speed.networks import count_flops
from face_align_env.agents.speed.report import GROUPS, chosen_groups, table
from face_align_env.agents.speed.training import supervised_step
from face_align_env.agents.speed.workbench import ColdCopy, Settings, Workbench
from face_align_env.networks import gen as gen_network
from face_align_env.networks import lrn as lrn_network
from face_align_env.networks.gen import GENConfig
from face_align_env.networks.lrn import LRNConfig
from face_align_env.pretrain import recipes
from face_align_env.pretrain.faces import DeviceFaces
from face_align_env.pretrain.objectives import GENObjective
from face_align_env.pretrain.recipes import Recipe, TrainingConfig
from face_align_env.vector_env import FaceAlignVectorEnv


@pytest.fixture
def micro(monkeypatch: pytest.MonkeyPatch) -> str:
    """A preset of small networks."""
    monkeypatch.setitem(gen_network.PRESETS, "micro", GENConfig(input_size=16, width=4, hidden=16))
    monkeypatch.setitem(lrn_network.PRESETS, "micro", LRNConfig(encoder=((4, 10, 10, 1),), bottleneck=4))
    config = TrainingConfig(epochs=1, batch_size=8)
    monkeypatch.setitem(recipes.RECIPES, "micro", Recipe("micro", "micro", config, config))
    return "micro"


@pytest.fixture
def bench(micro: str) -> Workbench:
    return Workbench(Settings(micro, "cpu", repeats=1, quick=True))


class Clock:
    """Time passes only in the functions that it has made."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def function(self, name: str, *seconds: float) -> Callable[[], None]:
        """It takes ``seconds`` one call after the other; the last of them from then on."""
        left = list(seconds)

        def run() -> None:
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_times_are_taken_in_turn_and_the_first_call_does_not_count() -> None:
    clock = Clock()
    # The machine is four times slower in the second repeat, for both: the ratio stays.
    slow, fast = clock.function("slow", 100, 6, 24, 6), clock.function("fast", 50, 2, 8, 3)
    times = interleave([slow, fast], repeats=3, least=1, clock=clock)
    assert clock.calls == ["slow", "fast", "slow", "fast", "fast", "slow", "slow", "fast"]
    assert [timing.seconds.tolist() for timing in times] == [[6, 24, 6], [2, 8, 3]]
    spread = times[0].over(times[1])
    assert (spread.median, spread.low, spread.high) == (3, 2.5, 3)


def test_a_fast_function_is_called_often_enough() -> None:
    clock = Clock()
    (timing,) = interleave([clock.function("f", 9, 0.25)], repeats=2, least=1, clock=clock)
    assert len(clock.calls) == 1 + 2, "the first call took long enough to tell"
    clock = Clock()
    (timing,) = interleave([clock.function("f", 0.5, 0.25)], repeats=2, least=1, clock=clock)
    assert len(clock.calls) == 2 + 2 * 4
    assert timing.seconds.tolist() == [0.25, 0.25]


def test_the_device_is_waited_for_within_the_measurement() -> None:
    clock = Clock()
    finish = clock.function("finish", 1)
    (timing,) = interleave([clock.function("f", 3)], 2, 1, finish, clock)
    assert timing.seconds.tolist() == [4, 4]


def test_nothing_to_repeat_is_refused() -> None:
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        interleave([], 0)
    with pytest.raises(ValueError, match="at least 1"):
        Settings(repeats=0)


def test_an_entry_has_the_share_of_its_limit_and_the_ratio_to_its_baseline() -> None:
    clock = Clock()
    functions = [clock.function("limit", 1), clock.function("base", 8), clock.function("f", 4)]
    limit, base, timing = interleave(functions, repeats=3, least=0, clock=clock)
    # f does three quarters of what the limit's function does, in four times its time.
    entry = timed("g", "f", timing, 2, "face", Limit("limit", limit, work=0.75), Baseline("base", base))
    assert (entry.seconds, entry.count, entry.share, entry.ratio) == (4, 2, 0.75 / 4, 0.5)
    assert (entry.limit, entry.ratio_to) == ("limit", "base")


def test_every_group_is_measured_and_written(micro: str, tmp_path: Path) -> None:
    output = tmp_path / "runs" / "speed.json"
    options = ["--quick", "--preset", micro, "--repeats", "2", "--device", "cpu", "--scaling"]
    result = CliRunner().invoke(app, ["speed", *options, "--output", str(output)])
    assert result.exit_code == 0, result.output + repr(result.exception)
    document = json.loads(output.read_text())
    assert {"cpu", "cores", "torch_threads", "python", "torch", "numpy", "opencv"} <= document["machine"].keys()
    assert document["settings"]["repeats"] == 2
    entries = [Entry(**entry) for entry in document["entries"]]
    assert list(dict.fromkeys(entry.group for entry in entries)) == list(GROUPS) == list(document["peak_memory"])
    assert len({(entry.group, entry.name) for entry in entries}) == len(entries)
    limits = [entry.name for entry in entries if entry.limit is None and entry.ratio_to is None]
    assert len(limits) == 2, "all but the limits themselves are compared with something"
    for entry in entries:
        for name in ("seconds", "low", "high", "share", "ratio", "bytes"):
            value = getattr(entry, name)
            assert value is None or (math.isfinite(value) and value > 0), entry
        assert f" {entry.name} " in result.output, result.output
    assert output.with_name("speed-scaling.png").is_file()
    assert sorted(path.name for path in output.parent.iterdir()) == ["speed-scaling.png", "speed.json"]


def test_groups_are_chosen_by_name() -> None:
    assert chosen_groups(None, scaling=False) == [name for name in GROUPS if name != "scaling"]
    assert chosen_groups(["patches", "memory"], scaling=True) == ["memory", "patches", "scaling"]
    with pytest.raises(ValueError, match="Unknown group 'speed'; there are memory, patches, env, "):
        chosen_groups(["memory", "speed"], scaling=False)


def test_an_unknown_group_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["speed", "--only", "speed", "--output", str(tmp_path / "speed.json")])
    assert "Unknown group 'speed'" in result.output
    assert list(tmp_path.iterdir()) == []


def test_tables_are_readable_at_100_columns() -> None:
    entry = Entry(
        "env", "FaceAlignVectorEnv(256) + policy", 1.234, 1.2, 1.3, 25_600, "step",
        0.123, 0.1, 0.2, "copying", 0.123, 0.1, 0.2, "SyncVectorEnv",
    )  # fmt: skip
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table("env", [entry], 12_345_678))
    text = console.export_text()
    for cell in (entry.name, "SyncVectorEnv", "1.23 s", "20,746 steps/s", "12.3 %", "0.123", "12.3 MB"):
        assert cell in text
    assert "…" not in text


def test_an_earlier_run_stands_beside_the_new_one(micro: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    options = ["--quick", "--preset", micro, "--repeats", "1", "--device", "cpu", "--only", "patches"]
    assert CliRunner().invoke(app, ["speed", *options, "--output", str(first)]).exit_code == 0
    document = json.loads(first.read_text())
    for entry in document["entries"]:
        entry["seconds"] = 1000.0
    first.write_text(json.dumps(document))
    result = CliRunner().invoke(app, ["speed", *options, "--output", str(second), "--before", str(first)])
    assert result.exit_code == 0, result.output
    for entry in json.loads(second.read_text())["entries"]:
        assert f"{1000 / entry['seconds']:.2f} x" in result.output
    first.write_text("{}")
    result = CliRunner().invoke(app, ["speed", *options, "--output", str(second), "--before", str(first)])
    assert result.exit_code == 1
    assert "first.json' is no document of face-align speed" in " ".join(result.output.split())


def test_figures_without_an_earlier_one_have_no_gain() -> None:
    entries = [Entry("env", name, 2.0, 2, 2, 10, "step") for name in ("old", "new")]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table("env", entries, None, {("env", "old"): 3.0, ("patches", "new"): 1.0}))
    text = console.export_text()
    assert text.count(" x ") == 1
    assert "1.50 x" in text


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision must be one of"):
        Settings(precision="8-bit")


def test_memory_is_unknown_where_the_kernel_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_CLEAR", tmp_path)
    monkeypatch.setattr(memory, "_ROLLUP", tmp_path / "none")
    assert memory.begin_peak()() is None
    assert memory.resident() is None


def test_a_peak_forgets_what_was_before() -> None:
    before = memory.begin_peak()
    block = mmap.mmap(-1, 200_000_000)  # the allocator may keep what an array gives back
    block.write(bytes(200_000_000))
    high = before()
    if high is None:
        pytest.skip("no VmHWM here")
    block.close()
    low = memory.begin_peak()()
    assert low is not None
    assert low < high - 100_000_000


def test_copying_begins_again_where_the_source_ends() -> None:
    copy = ColdCopy(1)
    copy(30_000_000)  # more than twice the source
    copy(1)


def test_a_cycle_of_random_actions_is_an_episode_of_every_face(bench: Workbench) -> None:
    env = FaceAlignVectorEnv(3, dataset=bench.source, initializer="mean")
    cycle = random_cycle(env)
    for _ in range(3):
        cycle()
        assert env.episodes.t.tolist() == [0, 0, 0], "it ends with a reset, in all slots"


def test_flops_of_a_matrix_product() -> None:
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert count_flops(lambda: a @ b) == 2 * 3 * 5 * 7


def test_a_training_step_learns_and_its_passes_alone_do_not(bench: Workbench) -> None:
    faces = DeviceFaces(bench.prepared, 16, progress=False)
    step, passes, rest = supervised_step(bench, GENObjective(bench.gen), faces, TrainingConfig(batch_size=4), 4)
    weights = bench.gen.head[2].weight
    before = weights.detach().clone()
    passes()
    assert torch.equal(weights, before)
    assert weights.grad is not None
    step()
    assert not torch.equal(weights, before)
    after = weights.detach().clone()
    rest()
    assert not torch.equal(weights, after), "the optimizer is part of it"
