"""How the algorithms of a benchmark are made."""

from __future__ import annotations

from typing import Any

from stable_baselines3 import PPO

from face_align_env.agents.benchmark.algorithms import ALGORITHMS, make_learner
from face_align_env.agents.common.vec_env import FaceAlignVecEnv
from face_align_env.networks.lrn import LRN


def test_on_patches_ppo_gives_the_value_a_small_weight(toy_vec_env: Any, lrn: LRN) -> None:
    patches, features = toy_vec_env(2), FaceAlignVecEnv(2, "FaceAlign/State19-v0", dataset_options={"size": 8})
    small = {"n_steps": 8, "batch_size": 8}
    weights = {}
    for name, env in {"patches": patches, "features": features}.items():
        model = make_learner("ppo", env, "scratch", lrn, 0, 100, small)
        assert isinstance(model, PPO)
        assert model.n_steps == 8, "what is asked for wins"
        weights[name] = model.vf_coef
    assert weights["patches"] == ALGORITHMS["ppo"].on_patches["vf_coef"] < weights["features"] == 0.5
