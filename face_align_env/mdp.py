"""The decision process of the paper's section 3.2: Eq. 2, 3 and 4 as pure functions.

This is the only place where these equations exist. Every function is batched over N faces and works on
NumPy arrays (the environment) and on torch tensors (the training losses) alike; torch gradients flow
through :func:`nme` and :func:`transition`.

Shapes: ``x`` (N, K, 2) in pixels of the crop; ``a`` (N, 2K) in pixels, ordered
``[dx_1, dy_1, ..., dx_K, dy_K]``; everything per face is (N,).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from face_align_env.arrays import where
from face_align_env.checks import check_choice, check_integer, check_number

MAX_ITERATIONS = 10
TERMINAL_REWARD = 10.0
FAILURE_REWARD = -10.0
REWARDS = ("paper", "dense", "shaped")
HISTORY_SIZE = 512  # of d_t
DEFAULT_ACTION_LIMIT = 32.0  # pixels of the crop; bounds each coordinate of a_t, see FaceAlignEnv


@dataclass(frozen=True)
class MDPParameters:
    """Table 2 and the constants of section 3.2.

    :param alpha_1: NME below which a shape may be terminal (Eq. 3), a fraction of the normaliser
    :param alpha_2: mean L1 length of a landmark's last increment below which a shape may be terminal,
        in pixels of the crop (Eq. 3); 3.0 on 300W, 2.0 on COFW, 1.5 on AFLW
    :param beta_1: relative reduction of NME that earns +1 (Eq. 4)
    :param beta_2: relative reduction of NME at or below which it costs -1 (Eq. 4); negative
    :param max_iterations: the episode is stopped after this many iterations
    :param reward: ``"paper"``: Eq. 4; ``"dense"``: :func:`dense_reward`; ``"shaped"``: Eq. 4 plus :func:`shaping`
    :param iteration_cost: taken from every reward, so that an iteration must be worth it; 0 in the paper
    :param shaping_gamma: the agent's discount, of which ``"shaped"`` must know; 0.9 in Table 2
    :param shaping_scale: what a percent of NME is worth to ``"shaped"``
    :raises ValueError: when a value makes no sense
    """

    alpha_1: float = 0.07
    alpha_2: float = 3.0
    beta_1: float = 0.03
    beta_2: float = -0.02
    max_iterations: int = MAX_ITERATIONS
    reward: str = "paper"
    iteration_cost: float = 0.0
    shaping_gamma: float = 0.9
    shaping_scale: float = 1.0

    def __post_init__(self) -> None:
        check_choice("reward", self.reward, REWARDS)
        check_number("alpha_1", self.alpha_1, above=0)
        check_number("alpha_2", self.alpha_2, above=0)
        check_number("beta_1", self.beta_1, least=0, most=1)
        check_number("beta_2", self.beta_2)
        if self.beta_2 > self.beta_1:
            raise ValueError(f"beta_2 ({self.beta_2}) must not exceed beta_1 ({self.beta_1}): see Eq. 4.")
        check_integer("max_iterations", self.max_iterations, least=1)
        check_number("iteration_cost", self.iteration_cost, least=0)
        check_number("shaping_gamma", self.shaping_gamma, least=0, most=1)
        check_number("shaping_scale", self.shaping_scale, above=0)


def euclidean(vectors: Any) -> Any:
    """Length of (..., 2) vectors; the gradient at zero is zero, not NaN."""
    if isinstance(vectors, np.ndarray):
        # np.linalg.norm for two coordinates, which sums along such a short axis in several times the time
        x, y = vectors[..., 0], vectors[..., 1]
        return np.sqrt(x * x + y * y)
    return vectors.norm(dim=-1)


def nme(x: Any, ground_truth: Any, d: Any, visible: Any = None) -> Any:
    """Eq. 2: mean distance between corresponding landmarks, divided by ``d``.

    :param x: (N, K, 2) shapes, pixels
    :param ground_truth: (N, K, 2) annotated shapes, pixels
    :param d: (N,) normalising distances, pixels
    :param visible: (N, K) bool; landmarks marked False do not count (AFLW's points that are not
        annotated). None: all count
    :return: (N,) NME as a fraction; NaN for a face without any landmark that counts
    """
    distances = euclidean(x - ground_truth)
    if visible is None:
        return distances.mean(-1) / d
    return (distances * visible).sum(-1) / visible.sum(-1) / d


def transition(x: Any, a: Any) -> Any:
    """State transition of section 3.2: ``x_{t+1} = x_t + a_t``, (N, K, 2)."""
    return x + a.reshape(x.shape)


def is_terminal(nme_t: Any, a: Any, alpha_1: float, alpha_2: float) -> Any:
    """Eq. 3: whether ``s_t`` is a terminal state.

    At test time the paper takes NME as 0: pass ``nme_t=0.0``. What the state is worth is another question, see
    :func:`reward`.

    :param nme_t: (N,) NME of ``x_t``, or 0.0
    :param a: (N, 2K) the action ``a_{t-1}`` that led to ``x_t``, pixels
    :param alpha_1: bound on NME, a fraction
    :param alpha_2: bound on the mean L1 length of a landmark's increment, pixels
    :return: (N,) bool
    """
    num_landmarks = a.shape[-1] // 2
    return (nme_t < alpha_1) & (abs(a).sum(-1) < alpha_2 * num_landmarks)


def stops(number: Any) -> Any:
    """Whether the agent says that ``x_t`` is final; not the paper's, whose agents are stopped by Eq. 3.

    :param number: (N,) in [-1, 1], what the action ``a_{t-1}`` says of the ``x_t`` that it leads to
    :return: (N,) bool
    """
    return number > 0


def reward(nme_before: Any, nme_after: Any, success: Any, ended: Any, beta_1: float, beta_2: float) -> Any:
    """Eq. 4, and the rewards of the last state.

    The paper's terminal states all have an NME below ``alpha_1``, since its training knows the NME. An episode can end
    without that, by its last allowed iteration or by a rule that looks at the action only: both cost -10.

    :param nme_before: (N,) NME of ``x_{t-1}``
    :param nme_after: (N,) NME of ``x_t``
    :param success: (N,) bool, the episode ends with ``s_t``, and its NME is below ``alpha_1``: +10
    :param ended: (N,) bool, the episode ends with ``s_t``; without success: -10
    :param beta_1: relative reduction that earns +1
    :param beta_2: relative reduction at or below which it costs -1
    :return: (N,) float64
    """
    improved = (1 - beta_1) * nme_before >= nme_after
    worsened = (1 - beta_2) * nme_before <= nme_after
    # Both hold only where NME is zero before and after: a perfect shape that stays perfect is no mistake,
    # and the first case of Eq. 4 comes first.
    step = where(improved, 1.0, where(worsened, -1.0, 0.0))
    return where(success, TERMINAL_REWARD, where(ended, FAILURE_REWARD, step))


def dense_reward(nme_before: Any, nme_after: Any) -> Any:
    """By how much the error has shrunk, percent of the normaliser: ``100 (NME(x_{t-1}) - NME(x_t))``.

    Not the paper's. Without discount an episode returns the whole reduction, however it ends; Eq. 4 pays the same for
    any reduction above 3 %.

    :param nme_before: (N,) NME of ``x_{t-1}``
    :param nme_after: (N,) NME of ``x_t``
    :return: (N,)
    """
    return 100 * (nme_before - nme_after)


def shaping(nme_before: Any, nme_after: Any, ended: Any, gamma: float, scale: float) -> Any:
    """What potential-based shaping adds to a reward: ``F = gamma Phi(s_t) - Phi(s_{t-1})``, ``Phi = -100 scale NME``.

    Ng, Harada and Russell, "Policy invariance under reward transformations" (1999). The state after the last step has
    ``Phi = 0``, so the terms of an episode, discounted by ``gamma``, sum to ``-Phi(s_0)``, whatever was done: an agent
    with that discount has the same optimal policy as without. That is as true of the end by the limit of iterations,
    for agents that take it for an end, as Algorithm 1 does; not for those that bootstrap past it.

    :param nme_before: (N,) NME of ``x_{t-1}``, a fraction
    :param nme_after: (N,) NME of ``x_t``
    :param ended: (N,) bool, the episode is over with ``s_t``, terminal or not
    :param gamma: the agent's discount
    :param scale: potential of a percent of NME
    :return: (N,)
    """
    return 100 * scale * (nme_before - gamma * where(ended, 0.0, nme_after))
