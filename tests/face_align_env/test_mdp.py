"""Eq. 2, 3 and 4 against values worked out by hand, in each branch and on each boundary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from face_align_env import mdp
from face_align_env.mdp import MDPParameters, dense_reward, is_terminal, nme, reward, shaping, stops, transition

K = 4
ALPHA_1, ALPHA_2, BETA_1, BETA_2 = 0.07, 3.0, 0.03, -0.02

KINDS = pytest.mark.parametrize("array", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])


@KINDS
def test_nme_is_the_mean_distance_divided_by_d(array: Any) -> None:
    truth = np.zeros((2, 3, 2))
    x = np.array([[[3.0, 4.0], [0.0, 0.0], [0.0, 1.0]], [[6.0, 8.0], [5.0, 12.0], [0.0, -7.0]]])
    # distances 5, 0, 1 with d = 10, and 10, 13, 7 with d = 100
    assert nme(array(x), array(truth), array(np.array([10.0, 100.0]))).tolist() == pytest.approx([0.2, 0.1])


@KINDS
def test_nme_leaves_out_what_does_not_count(array: Any) -> None:
    x, truth = np.array([[[3.0, 4.0], [100.0, 0.0]]] * 2), np.zeros((2, 2, 2))
    counted = np.array([[True, False], [False, False]])
    with np.errstate(invalid="ignore"):
        errors = nme(array(x), array(truth), array(np.array([10.0, 10.0])), array(counted))
    assert float(errors[0]) == 0.5
    assert np.isnan(float(errors[1])), "a face without any landmark that counts has no NME"


def test_gradient_of_nme_is_finite_where_the_error_is_zero() -> None:
    truth = torch.rand(2, 5, 2)
    x = truth.clone().requires_grad_()
    nme(x, truth, torch.ones(2)).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@KINDS
def test_transition_adds_increments_landmark_by_landmark(array: Any) -> None:
    x = array(np.array([[[1.0, 2.0], [3.0, 4.0]]]))
    a = array(np.array([[0.5, -1.0, 2.0, 0.0]]))  # dx_1, dy_1, dx_2, dy_2
    assert transition(x, a).tolist() == [[[1.5, 1.0], [5.0, 4.0]]]


@pytest.mark.parametrize(
    ("nme_t", "l1", "terminal"),
    [
        (0.069, 11.9, True),
        (0.071, 11.9, False),  # too far away
        (0.069, 12.1, False),  # still moving
        (0.071, 12.1, False),
        (ALPHA_1, 11.9, False),  # NME exactly alpha_1
        (0.069, ALPHA_2 * K, False),  # L1 exactly alpha_2 K
        (0.0, 0.0, True),
    ],
)
@KINDS
def test_eq_3(array: Any, nme_t: float, l1: float, terminal: bool) -> None:
    a = np.zeros((1, 2 * K))
    a[0, 1], a[0, 4] = -l1 / 4, 3 * l1 / 4  # signs must not cancel
    assert is_terminal(array(np.array([nme_t])), array(a), ALPHA_1, ALPHA_2).tolist() == [terminal]


@KINDS
def test_eq_3_at_test_time_takes_nme_as_zero(array: Any) -> None:
    a = np.zeros((2, 2 * K))
    a[1] = 3.0  # L1 = alpha_2 K x 2
    assert is_terminal(0.0, array(a), ALPHA_1, ALPHA_2).tolist() == [True, False]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (1.0, 0.5, 1.0),
        (1.0, 0.97, 1.0),  # equality in the first case
        (1.0, 0.9701, 0.0),
        (1.0, 1.0, 0.0),
        (1.0, 1.0199, 0.0),
        (1.0, 1.02, -1.0),  # equality in the second case
        (1.0, 2.0, -1.0),
        (0.0, 0.0, 1.0),  # both cases hold: a perfect shape that stays is no mistake
        (0.0, 0.1, -1.0),
        (0.1, 0.0, 1.0),
    ],
)
def test_eq_4(before: float, after: float, expected: float) -> None:
    no = np.array([False])
    assert reward(np.array([before]), np.array([after]), no, no, BETA_1, BETA_2).tolist() == [expected]


@pytest.mark.parametrize(
    ("success", "ended", "expected"),
    [(True, True, 10.0), (False, True, -10.0), (False, False, 1.0)],
)
def test_reward_of_the_last_state(success: bool, ended: bool, expected: float) -> None:
    flags = np.array([success]), np.array([ended])
    assert reward(np.array([1.0]), np.array([0.5]), *flags, BETA_1, BETA_2).tolist() == [expected]


def test_reward_is_batched() -> None:
    before, after = np.array([1.0, 1.0, 1.0, 1.0]), np.array([0.9, 1.0, 1.1, 0.9])
    ended = np.array([False, False, False, True])
    rewards = reward(before, after, ended, ended, BETA_1, BETA_2)
    assert rewards.tolist() == [1.0, 0.0, -1.0, 10.0]
    assert rewards.dtype == np.float64


def test_dense_reward_is_the_reduction_in_percent() -> None:
    errors = np.array([0.08, 0.05, 0.055, 0.04])
    rewards = dense_reward(errors[:-1], errors[1:])
    np.testing.assert_allclose(rewards, [3.0, -0.5, 1.5])
    assert rewards.sum() == pytest.approx(100 * (errors[0] - errors[-1])), "an episode returns the whole of it"


@pytest.mark.parametrize(
    ("before", "after", "ended", "expected"),
    [
        (0.08, 0.05, False, 2 * (8 - 0.5 * 5)),  # gamma Phi(s_t) - Phi(s_(t-1)) with Phi = -2 x percent, gamma 0.5
        (0.05, 0.08, False, 2 * (5 - 0.5 * 8)),
        (0.08, 0.05, True, 2 * 8),  # no potential after the last step
        (0.0, 0.0, False, 0.0),
    ],
)
def test_shaping(before: float, after: float, ended: bool, expected: float) -> None:
    paid = shaping(np.array([before]), np.array([after]), np.array([ended]), gamma=0.5, scale=2.0)
    assert paid.tolist() == pytest.approx([expected])


def test_shaping_of_a_whole_episode_is_the_potential_of_its_start() -> None:
    errors = np.random.default_rng(0).uniform(0, 0.2, 9)
    ended = np.arange(8) == 7
    paid = shaping(errors[:-1], errors[1:], ended, 0.9, 1.5)
    assert (0.9 ** np.arange(8) * paid).sum() == pytest.approx(150 * errors[0])


def test_torch_and_numpy_agree() -> None:
    rng = np.random.default_rng(0)
    x, truth = rng.normal(size=(2, 50, K, 2))
    a, d = rng.normal(0, 3, (50, 2 * K)), rng.uniform(1, 2, 50)
    counted = rng.random((50, K)) < 0.9
    counted[:, 0] = True

    def outcome(array: Any) -> list[Any]:
        moved = transition(array(x), array(a))
        error = nme(moved, array(truth), array(d), array(counted))
        return [np.asarray(value) for value in (moved, error, is_terminal(error, array(a), 2.0, ALPHA_2))]

    for with_numpy, with_torch in zip(outcome(np.asarray), outcome(torch.as_tensor), strict=True):
        np.testing.assert_allclose(with_numpy, with_torch, rtol=1e-12)


@KINDS
def test_an_agent_stops_above_zero(array: Any) -> None:
    assert stops(array(np.float32([-1.0, -1e-6, 0.0, 1e-6, 1.0]))).tolist() == [False, False, False, True, True]


def test_table_2() -> None:
    assert MDPParameters() == MDPParameters(0.07, 3.0, 0.03, -0.02, 10)
    assert (mdp.TERMINAL_REWARD, mdp.FAILURE_REWARD) == (10.0, -10.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha_1": 0.0},
        {"alpha_2": -1.0},
        {"beta_1": -0.05},
        {"beta_1": 1.5},
        {"beta_2": -np.inf},
        {"alpha_1": np.nan},
        {"alpha_1": np.inf},
        {"alpha_2": "3"},
        {"alpha_2": True},
        {"max_iterations": 0},
        {"max_iterations": 2.5},
        {"iteration_cost": -0.1},
        {"reward": "sparse"},
        {"iteration_cost": np.nan},
        {"shaping_gamma": 1.5},
        {"shaping_gamma": np.nan},
        {"shaping_scale": 0.0},
        {"shaping_scale": np.inf},
    ],
    ids=str,
)
def test_parameters_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MDPParameters(**wrong)
