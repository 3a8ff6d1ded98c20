"""face-align watch: an episode of a run, and the three kinds of files that show it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from typer.testing import CliRunner

from face_align_env.agents import watch as watching
from face_align_env.agents.cli.app import app
from face_align_env.agents.run_config import RunConfig
from face_align_env.agents.run_folder import RunFolder
from face_align_env.agents.watch import METHODS, SUFFIXES, play, save_frames, watch
from face_align_env.mdp import nme
from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.networks.lrn import LRN
from face_align_env.pretrain.recipes import Data

FRAMES = [np.full((64, 48, 3), shade, dtype=np.uint8) for shade in (30, 120, 220)]
DATA = Data(options={"size": 4})


@pytest.fixture
def micro_run(tmp_path: Path, new_lrn: Callable[..., LRN]) -> Path:
    """The folder of a run whose networks have learned nothing."""
    folder = tmp_path / "micro"
    torch.manual_seed(0)
    mean_shape = torch.linspace(60, 190, 136).view(68, 2)
    GEN(GENConfig(input_size=16, width=4, hidden=16), mean_shape).save(RunFolder(folder).gen)
    for seed, path in enumerate((RunFolder(folder).agent, RunFolder(folder).policy, RunFolder(folder).cascade(8))):
        new_lrn(seed, 10).save(path)
    new_lrn(3, 10).save(RunFolder(folder).cascade(2, from_mean=True), {"mean_shape": (mean_shape + 5).tolist()})
    RunConfig(DATA, preset="tiny", alpha_2=3.0).write(folder)
    return folder


def test_an_episode_is_what_the_aligner_does(micro_run: Path) -> None:
    episode = play(micro_run, index=3)
    prepared = DATA.prepare("test")
    ((path,), (iterations,)) = RunFolder(micro_run).aligner().align_crops(prepared.crop(3)[None])
    truth, d = prepared.landmarks[[3]], prepared.d[[3]]
    assert episode.rollout.lengths.tolist() == [iterations]
    expected = [float(nme(shape[None], truth, d)[0]) for shape in path[: iterations + 1]]
    assert episode.rollout.errors[:, 0].tolist() == pytest.approx(expected, rel=1e-4)
    assert len(episode.frames) == iterations + 1
    assert {frame.shape for frame in episode.frames} == {(512, 512, 3)}
    assert (episode.frames[0] != episode.frames[1]).any()
    assert episode.split == "test"


def test_each_method_has_its_own_policy_start_and_length(micro_run: Path) -> None:
    methods = ("dcrn", "lrn", "gen-lrn8", "lrn-2")
    starts = {method: play(micro_run, method=method).rollout.initial_nme.item() for method in methods}
    assert starts["dcrn"] == starts["lrn"] == starts["gen-lrn8"]
    assert starts["lrn-2"] != starts["dcrn"], "the mean shape that it was trained from"
    assert play(micro_run).rollout.errors[1, 0] != play(micro_run, method="lrn").rollout.errors[1, 0]
    eight, two = (play(micro_run, method=method).rollout for method in ("gen-lrn8", "lrn-2"))
    assert (eight.lengths.item(), two.lengths.item()) == (8, 2)
    assert eight.rewards[-1].item() == -10, "it has missed the face"
    assert not eight.successes.item()
    assert set(METHODS) == {"dcrn", "lrn", "gen-lrn4", "gen-lrn8", "lrn-2", "lrn-4", "lrn-8"}


@pytest.mark.parametrize(("termination", "ended"), [("blind", 1), ("oracle", 10), ("limit", 10), (None, 1)])
def test_termination_is_that_of_the_environment(micro_run: Path, termination: str | None, ended: int) -> None:
    (micro_run / "config.json").unlink()
    RunConfig(DATA, preset="tiny", alpha_2=1000.0).write(micro_run)  # any step is small
    rollout = play(micro_run, termination=termination).rollout
    assert rollout.lengths.item() == ended
    assert not rollout.successes.any(), "an untrained policy finds no face, whoever ends its episode"
    assert rollout.rewards[-1].item() == -10


def test_a_run_says_what_it_lacks_and_what_there_is(micro_run: Path) -> None:
    for index in (-1, 4):
        with pytest.raises(ValueError, match=f"no face {index}: --index goes from 0 to 3 in split 'test'"):
            play(micro_run, index)
    with pytest.raises(ValueError, match="no method 'gen'; there are dcrn, lrn"):
        play(micro_run, method="gen")
    with pytest.raises(ValueError, match="oracle, blind, limit"):
        play(micro_run, termination="never")
    with pytest.raises(ValueError, match=r"do not say when they stop: .* oracle, blind or limit"):
        play(micro_run, termination="action")
    with pytest.raises(FileNotFoundError, match="lrn-8"):
        play(micro_run, method="lrn-8")
    with pytest.raises(FileNotFoundError, match="no folder of a run"):
        play(micro_run / "nothing")


# -- files -------------------------------------------------------------------------------------------------------------


def test_png_shows_all_frames_in_a_row(tmp_path: Path) -> None:
    save_frames(FRAMES, tmp_path / "a" / "episode.png")
    picture = np.asarray(Image.open(tmp_path / "a" / "episode.png"))
    assert picture.shape == (64, 3 * 48 + 2 * 8, 3)
    assert [picture[32, 24 + 56 * i, 0] for i in range(3)] == [30, 120, 220]


def test_gif_plays_at_its_speed_and_dwells_on_the_last_frame(tmp_path: Path) -> None:
    save_frames(FRAMES, tmp_path / "episode.GIF", fps=4)
    with Image.open(tmp_path / "episode.GIF") as film:
        frames = [
            (frame.convert("RGB").getpixel((24, 32)), frame.info["duration"]) for frame in ImageSequence.Iterator(film)
        ]
        assert film.info["loop"] == 0
    assert frames == [((30,) * 3, 250), ((120,) * 3, 250), ((220,) * 3, 750)]


def test_mp4_plays_at_its_speed_and_dwells_on_the_last_frame(tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    save_frames(FRAMES, tmp_path / "episode.mp4", fps=4)
    film = cv2.VideoCapture(str(tmp_path / "episode.mp4"))
    assert film.get(cv2.CAP_PROP_FPS) == 4
    shades = []
    while (read := film.read())[0]:
        shades.append(float(read[1].mean()))
    np.testing.assert_allclose(shades, [30, 120, 220, 220, 220], atol=4)
    assert [path.name for path in tmp_path.iterdir()] == ["episode.mp4"], "no temporary file is left"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_is_there_stays_whole_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    path = tmp_path / f"episode{suffix}"
    path.write_text("old")
    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_frames(FRAMES, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path], "no temporary file is left"


def test_other_outputs_are_refused_before_anything_is_played(
    micro_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "play", None)
    with pytest.raises(ValueError, match=r"'.*film.avi' must end in one of .mp4, .gif, .png"):
        watch(micro_run, output=tmp_path / "film.avi")
    with pytest.raises(ValueError, match="fps must be positive, got 0"):
        watch(micro_run, output=tmp_path / "film.gif", fps=0)
    monkeypatch.setitem(sys.modules, "moviepy", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "face-align-env\[video\]"'):
        watch(micro_run, output=tmp_path / "film.mp4")


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_says_how_it_went(micro_run: Path) -> None:
    result = CliRunner().invoke(app, ["watch", str(micro_run), "--index", "2", "--method", "lrn-2"])
    assert result.exit_code == 0, result.output
    episode = play(micro_run, 2, "lrn-2")
    line = result.output.splitlines()[0]
    first, last = 100 * episode.rollout.initial_nme.item(), 100 * episode.rollout.nme.item()
    assert line.startswith(f"Face 2 of test: NME {first:.2f} % -> {last:.2f} % in 2 iterations, rewards ")
    assert line.endswith("-10")
    assert (micro_run / "episodes" / "test-2-lrn-2.gif").is_file()


def test_the_command_without_a_method_plays_dcrn(micro_run: Path, tmp_path: Path) -> None:
    for arguments in ((), ("--output", str(tmp_path / "row.png")), ("--split", "train")):
        assert CliRunner().invoke(app, ["watch", str(micro_run), *arguments]).exit_code == 0
    assert (tmp_path / "row.png").is_file()
    assert sorted(path.name for path in (micro_run / "episodes").iterdir()) == ["test-0.gif", "train-0.gif"]
