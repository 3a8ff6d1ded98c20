"""One rollout: with and without an environment, under each termination."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from face_align_env.agents.common.crop_rollout import roll_out
from face_align_env.agents.common.policies import lrn_policy
from face_align_env.agents.common.rollout import Rollout, play
from face_align_env.agents.common.vec_env import FaceAlignVecEnv
from face_align_env.aligner import FaceAligner
from face_align_env.initialization import MeanShape
from face_align_env.mdp import MDPParameters
from face_align_env.networks.cascade import MeanStart
from face_align_env.networks.lrn import LRN
from face_align_env.prepared import FaceSource, PreparedFaces
from face_align_env.vector_env import FaceAlignVectorEnv

PARAMETERS = MDPParameters(alpha_1=0.12, alpha_2=4.15, max_iterations=4)


class Looking(LRN):
    """Steps whose length depends on the face; every other one is short."""

    def forward(self, patches: torch.Tensor, history: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        actions, _ = super().forward(patches, torch.zeros_like(history))
        return actions * torch.where(history[:, :1] == 0, 1.0, 0.4), 1 - history


@pytest.fixture
def faces(toy_dataset: Any) -> PreparedFaces:
    return PreparedFaces(toy_dataset("test", size=7))


@pytest.fixture
def lrn(new_lrn: Callable[..., LRN]) -> LRN:
    lrn = Looking(new_lrn().config)
    lrn.load_state_dict(new_lrn(gain=20.0).state_dict())
    return lrn.eval()


def environment(kind: type, lrn: LRN, faces: PreparedFaces, mean_shape: np.ndarray, termination: str) -> Any:
    return kind(
        3,
        dataset=FaceSource(faces),
        initializer=MeanShape(mean_shape),
        termination=termination,
        learned_history=True,
        action_limit=lrn.config.action_limit,
        patch_size=lrn.config.patch_size,
        alpha_1=PARAMETERS.alpha_1,
        alpha_2=PARAMETERS.alpha_2,
        max_iterations=PARAMETERS.max_iterations,
    )


def same(one: Rollout, other: Rollout) -> None:
    longest = min(len(one.rewards), len(other.rewards))
    assert one.lengths.tolist() == other.lengths.tolist()
    np.testing.assert_array_equal(one.rewards[:longest], other.rewards[:longest])
    np.testing.assert_array_equal(one.successes, other.successes)
    np.testing.assert_allclose(one.errors[: longest + 1], other.errors[: longest + 1], rtol=1e-4)
    np.testing.assert_allclose(one.nme, other.nme, rtol=1e-4)
    assert one.shapes is not None
    assert other.shapes is not None
    np.testing.assert_allclose(one.shapes[: longest + 1], other.shapes[: longest + 1], atol=1e-2)


@pytest.mark.parametrize("termination", ["oracle", "blind", "limit"])
def test_an_aligner_does_on_crops_what_its_policy_does_in_the_environment(
    lrn: LRN, faces: PreparedFaces, mean_shape: np.ndarray, termination: str
) -> None:
    aligner = FaceAligner(MeanStart(torch.from_numpy(mean_shape)), lrn, PARAMETERS.alpha_2, 4, batch_size=4)
    aligned = roll_out(aligner, faces, termination, PARAMETERS)
    for kind in (FaceAlignVecEnv, FaceAlignVectorEnv):
        played = play(lrn_policy(lrn), environment(kind, lrn, faces, mean_shape, termination), range(7))
        same(played, aligned)
    assert len(aligned.seconds) == 2
    assert min(aligned.seconds) > 0
    if termination != "limit":
        assert len(set(aligned.lengths.tolist())) > 1, "the test proves too little"
    if termination == "oracle":
        assert 0 < aligned.successes.sum() < 7, "some faces end well, some do not"
        same(aligned.under("blind", PARAMETERS), roll_out(aligner, faces, "blind", PARAMETERS))
    else:
        own = FaceAligner(aligner.start, lrn, None if termination == "limit" else PARAMETERS.alpha_2, 4, batch_size=4)
        assert roll_out(own, faces).lengths.tolist() == aligned.lengths.tolist(), "as it works on photos"


def test_faces_are_played_in_the_order_that_was_asked_for(
    lrn: LRN, faces: PreparedFaces, mean_shape: np.ndarray
) -> None:
    env = environment(FaceAlignVectorEnv, lrn, faces, mean_shape, "oracle")
    order = [3, 0, 5, 1]
    some, every = play(lrn_policy(lrn), env, order), play(lrn_policy(lrn), env, range(7))
    np.testing.assert_allclose(some.nme, every.nme[order], rtol=1e-5)
    np.testing.assert_array_equal(some.returns, every.returns[order])


def test_what_eq_4_pays_for_a_path_by_hand() -> None:
    """Improves by 3 % and more, stands still, worsens, ends: found, not found, at the limit."""
    errors = np.array([[0.10, 0.10, 0.10], [0.08, 0.10, 0.11], [0.06, 0.20, 0.11], [0.01, 0.01, 0.11]])
    rollout = Rollout.of_path(errors, np.array([2, 2, 3]), np.array([True, True, False]), MDPParameters())
    np.testing.assert_array_equal(rollout.rewards, [[1, 0, -1], [10, -10, 0], [np.nan, np.nan, -10]])
    assert rollout.nme.tolist() == [0.06, 0.20, 0.11], "it stands still after its end"
    assert rollout.successes.tolist() == [True, False, False]
    assert rollout.lengths.tolist() == [2, 2, 3]
    with pytest.raises(ValueError, match="has kept none"):
        rollout.under("blind", MDPParameters())
