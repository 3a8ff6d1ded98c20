"""Pictures of shapes, patches and episodes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled, ResetNeeded
from gymnasium.utils.passive_env_checker import env_render_passive_checker
from gymnasium.wrappers import RecordVideo
from gymnasium.wrappers.vector import RecordVideo as RecordVideos

from face_align_env import rendering
from face_align_env.datasets import Face, FaceDataset
from face_align_env.landmarks import SCHEMES

Toy = Callable[..., FaceDataset]
CROP = np.full((256, 256, 3), 90, dtype=np.uint8)


def make(dataset: FaceDataset, render_mode: str | None = "rgb_array", **options: Any) -> gym.Env[Any, Any]:
    return gym.make("FaceAlign-v0", dataset=dataset, initializer="mean", render_mode=render_mode, **options)


# -- pure functions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", sorted(SCHEMES))
def test_shapes_of_each_scheme_are_drawn_on_a_copy(k: int) -> None:
    picture = rendering.enlarge(CROP)
    shape = np.random.default_rng(0).uniform(50, 200, (k, 2)).astype(np.float32)
    drawn = rendering.draw_shape(picture, shape, SCHEMES[k])
    assert (picture == 90).all()
    assert (drawn != picture).any()
    columns, rows = (2 * shape + 0.5).round().astype(int).T
    np.testing.assert_array_equal(drawn[rows, columns], np.tile(rendering.CURRENT, (k, 1)))


def test_landmarks_that_are_not_annotated_are_not_drawn() -> None:
    shape = np.random.default_rng(0).uniform(50, 200, (19, 2)).astype(np.float32)
    shape[[1, 7]] = 10, 10  # somewhere else
    drawn = np.ones(19, dtype=np.bool_)
    drawn[[1, 7]] = False
    picture = rendering.draw_shape(rendering.enlarge(CROP), shape, SCHEMES[19], drawn=drawn)
    assert (picture[:80, :80] == 90).all()
    columns, rows = (2 * shape[drawn] + 0.5).round().astype(int).T
    np.testing.assert_array_equal(picture[rows, columns], np.tile(rendering.CURRENT, (17, 1)))
    state = rendering.draw_state(CROP, SCHEMES[19], x_t=shape[:] * 0 + 200, x_0=shape * 0 + 200, ground_truth=shape)
    masked = rendering.draw_state(
        CROP, SCHEMES[19], x_t=shape * 0 + 200, x_0=shape * 0 + 200, ground_truth=shape, annotated=drawn
    )
    assert (state[:80, :80] != 90).any()
    assert (masked[:80, :80] == 90).all()


def test_an_annotation_is_drawn_where_it_is() -> None:
    landmarks = np.random.default_rng(0).uniform((400, 300), (500, 400), (29, 2)).astype(np.float32)
    visible, counted = np.ones(29, dtype=np.bool_), np.ones(29, dtype=np.bool_)
    visible[4], counted[5] = False, False
    box = np.array([400, 300, 500, 400], dtype=np.float32)
    image = np.full((700, 900, 3), 90, dtype=np.uint8)
    face = Face(landmarks, box, visible, "x", counted, image=image)
    picture = rendering.draw_annotation(face, SCHEMES[29], size=800)
    assert picture.shape == (800, 800, 3), "the box of 100 px and half of it on each side, four times as large"
    assert (image == 90).all()
    places = ((landmarks - (350, 250) + 0.5) * 4 - 0.5).round().astype(int)
    expected = np.tile(rendering.GROUND_TRUTH, (29, 1))
    expected[4] = rendering.INITIAL
    hit = (picture[places[:, 1], places[:, 0]] == expected).all(1)
    assert hit[counted].mean() > 0.7, "numbers of neighbours hide some"
    corner = ((np.array([400, 300]) - (350, 250) + 0.5) * 4 - 0.5).round().astype(int)
    np.testing.assert_array_equal(picture[corner[1], corner[0]], rendering.WINDOW)


def test_an_annotation_outside_of_its_image_never_gets_to_be_drawn() -> None:
    landmarks = np.random.default_rng(0).uniform(400, 500, (29, 2)).astype(np.float32)
    image = np.zeros((50, 60, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"x\.jpg: .* 60 x 50 pixels"):
        Face(landmarks, np.array([400, 400, 500, 500], np.float32), np.ones(29, np.bool_), "x.jpg", image=image)


def test_shapes_far_outside_do_no_harm() -> None:
    shape = np.full((68, 2), 1e9, dtype=np.float32)
    drawn = rendering.draw_shape(rendering.enlarge(CROP), shape, SCHEMES[68])
    assert (rendering.draw_windows(drawn, shape) == 90).all()


def test_window_encloses_its_patch() -> None:
    drawn = rendering.draw_windows(rendering.enlarge(CROP), np.array([[100, 120]], np.float32), patch_size=30)
    rows, columns = np.nonzero((drawn != 90).any(axis=2))
    centre = 2 * np.array([100, 120]) + 0.5
    np.testing.assert_allclose([columns.min(), columns.max()], centre[0] + np.array([-30, 30]), atol=1.5)
    np.testing.assert_allclose([rows.min(), rows.max()], centre[1] + np.array([-30, 30]), atol=1.5)


def test_trajectory_joins_the_first_shape_to_the_last() -> None:
    first = np.random.default_rng(0).uniform(60, 190, (68, 2)).astype(np.float32)
    drawn = rendering.draw_trajectory(rendering.enlarge(CROP), [first, first + 10], SCHEMES[68])
    columns, rows = (2 * (first + 10) + 0.5).round().astype(int).T
    np.testing.assert_array_equal(drawn[rows, columns], np.tile(rendering.CURRENT, (68, 1)))
    assert (np.abs(drawn.astype(int) - rendering.INITIAL).sum(axis=2) < 30).any()


def test_patch_grid_shows_every_patch() -> None:
    patches = np.random.default_rng(0).integers(1, 256, (5, 30, 30, 3), dtype=np.uint8)
    grid = rendering.patch_grid(patches, columns=2)
    assert grid.shape == (92, 61, 3)
    np.testing.assert_array_equal(grid[:30, :30], patches[0])
    np.testing.assert_array_equal(grid[31:61, 31:], patches[3])
    np.testing.assert_array_equal(grid[62:, :30], patches[4])
    assert (grid[62:, 31:] == 0).all()


def test_pictures_of_different_sizes_stand_in_equal_cells() -> None:
    sheet = rendering.side_by_side([CROP[:100, :50], CROP[:20, :80]], gap=10)
    assert sheet.shape == (100, 170, 3)
    assert (sheet[:20, 90:] == 90).all()
    assert (sheet[20:, 90:] == 255).all()
    assert (sheet[:, 50:90] == 255).all()


def test_side_by_side_puts_frames_side_by_side() -> None:
    frames = [np.full((20, 30, 3), value, dtype=np.uint8) for value in (10, 20, 30)]
    sheet = rendering.side_by_side(frames, gap=4)
    assert sheet.shape == (20, 98, 3)
    assert [int(sheet[0, x, 0]) for x in (0, 34, 68, 31)] == [10, 20, 30, 255]
    assert rendering.side_by_side(frames, columns=2, gap=4).shape == (44, 64, 3)


# -- the environment's pictures ----------------------------------------------------------------------------------------


def test_picture_changes_with_the_state(toy_dataset: Toy) -> None:
    env = make(toy_dataset())
    env.reset(seed=0)
    first = env.render()
    assert isinstance(first, np.ndarray)
    assert first.shape == (512, 512, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, env.render())
    env.step(np.full(136, 4.0, dtype=np.float32))
    assert (env.render() != first).any()


def test_vector_environment_gives_the_pictures_of_its_slots(toy_dataset: Toy) -> None:
    dataset = toy_dataset()
    envs = gym.make_vec("FaceAlign-v0", num_envs=2, dataset=dataset, initializer="mean", render_mode="rgb_array")
    envs.reset(seed=0)
    envs.step(np.full((2, 136), 4.0, dtype=np.float32))
    frames = envs.render()
    assert frames is not None
    for j, frame in enumerate(frames):
        env = make(dataset)
        env.reset(seed=j)
        env.step(np.full(136, 4.0, dtype=np.float32))
        np.testing.assert_array_equal(frame, env.render())


def test_gymnasium_is_content_with_the_pictures(toy_dataset: Toy) -> None:
    env = make(toy_dataset())
    env.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env_render_passive_checker(env.unwrapped)


def test_rendering_needs_a_mode_and_an_episode(toy_dataset: Toy) -> None:
    env = make(toy_dataset(), render_mode=None)
    env.reset()
    with pytest.warns(UserWarning, match="render mode"):
        assert env.render() is None
    with pytest.raises(ResetNeeded):
        make(toy_dataset()).unwrapped.render()


def test_human_without_pygame_says_what_to_install(toy_dataset: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    env = make(toy_dataset(), render_mode="human")
    with pytest.raises(DependencyNotInstalled, match=r"face-align-env\[human\]"):
        env.reset()
    env.close()


def test_human_shows_the_picture_in_a_window(toy_dataset: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pygame = pytest.importorskip("pygame")
    monkeypatch.setitem(gym.make("FaceAlign-v0", dataset=toy_dataset(), initializer="mean").metadata, "render_fps", 100)
    env, reference = make(toy_dataset(), render_mode="human"), make(toy_dataset())
    for each in (env, reference):
        each.reset(seed=0)
        each.step(np.full(136, 4.0, dtype=np.float32))
    shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    np.testing.assert_array_equal(shown, reference.render())
    env.close()
    env.close()
    assert not pygame.display.get_init()


def test_record_video(toy_dataset: Toy, tmp_path: Path) -> None:
    env = RecordVideo(make(toy_dataset()), str(tmp_path / "single"), episode_trigger=lambda episode: True)
    env.reset(seed=0)
    while not any(env.step(np.full(136, 4.0, dtype=np.float32))[2:4]):
        pass
    env.close()
    assert [path.stat().st_size > 0 for path in (tmp_path / "single").glob("*.mp4")] == [True]


def test_record_video_of_the_vector_environment(toy_dataset: Toy, tmp_path: Path) -> None:
    envs = RecordVideos(
        gym.make_vec("FaceAlign-v0", num_envs=2, dataset=toy_dataset(), initializer="mean", render_mode="rgb_array"),
        str(tmp_path / "vector"),
        video_length=4,
        step_trigger=lambda step: step == 0,
    )
    envs.reset(seed=0)
    for _ in range(6):
        envs.step(np.full((2, 136), 4.0, dtype=np.float32))
    envs.close()
    assert [path.stat().st_size > 0 for path in (tmp_path / "vector").glob("*.mp4")] == [True]
