"""What Eq. 4 paid in the episodes of an evaluation, and how much it has left to give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from face_align_env.agents.common.rollout import GAMMA, Rollout
from face_align_env.agents.evaluation.measure import Outcome
from face_align_env.agents.evaluation.tables import Table, number
from face_align_env.mdp import FAILURE_REWARD, TERMINAL_REWARD

REWARDS = (TERMINAL_REWARD, 1.0, 0.0, -1.0, FAILURE_REWARD)
_SHOWN = 4  # iterations with a line of their own; few episodes are longer


def reward_counts(episodes: Rollout) -> npt.NDArray[np.int64]:
    """How often each reward was paid at each iteration.

    :return: (T, 5), the rewards in the order of ``REWARDS``; a row's sum is the number of episodes that got so far
    """
    return np.stack([(episodes.rewards == reward).sum(axis=1) for reward in REWARDS], axis=1)


def reward_tables(title: str, outcomes: Sequence[Outcome]) -> list[Table]:
    """Two tables: which rewards were paid when, and the returns beside the largest that there can be.

    :param title: above the tables
    :param outcomes: the methods; those without episodes are left out
    :return: empty where no method has episodes
    """
    played = [(outcome.row.method, outcome.episodes) for outcome in outcomes if outcome.episodes is not None]
    if not played:
        return []
    headings = tuple(f"{reward:+.0f} %" if reward else "0 %" for reward in REWARDS)
    lines: list[tuple[str, ...]] = []
    for method, episodes in played:
        counts = reward_counts(episodes)
        rest = f"{_SHOWN + 1} to {len(counts)}" if len(counts) > _SHOWN + 1 else f"{_SHOWN + 1}"
        parts = [(f"{t}", counts[t - 1]) for t in range(1, min(_SHOWN, len(counts)) + 1)]
        parts += [(rest, counts[_SHOWN:].sum(axis=0)), ("all", counts.sum(axis=0))]
        for iteration, paid in parts:
            if paid.sum():
                lines.append((method, iteration, f"{paid.sum():,}", *(number(100 * n / paid.sum(), 1) for n in paid)))
    returns = tuple(
        (
            method,
            f"{episodes.returns.mean():+.2f}",
            f"{episodes.discounted().mean():+.2f}",
            number(100 * float(episodes.saturated.mean()), 1),
            number(100 * float(episodes.successes.mean()), 1),
            number(float(episodes.lengths.mean())),
        )
        for method, episodes in played
    )
    return [
        Table(
            f"{title}: rewards of Eq. 4 by iteration",
            ("method", "iteration", "rewards", *headings),
            tuple(lines),
            ("oracle termination; shares of the rewards that were paid at that iteration",),
        ),
        Table(
            f"{title}: returns",
            ("method", "return", f"discounted by {GAMMA}", "largest %", "terminal %", "iterations"),
            returns,
            (
                "largest: share of the episodes for which Eq. 4 pays nothing more in as many iterations: +1 for each "
                f"but the last, +10 for that. Discounted by {GAMMA} they return {TERMINAL_REWARD:.0f}, whatever their "
                "length, and no episode returns more",
            ),
        ),
    ]
