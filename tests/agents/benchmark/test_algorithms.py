"""How the algorithms of a benchmark are made."""

from __future__ import annotations

from typing import Any

from stable_baselines3 import PPO

from face_align_env.agents.benchmark.algorithms import ALGORITHMS, make_learner
from face_align_env.agents.common.pretrained_features import PretrainedFeatures
from face_align_env.agents.common.shape_modes import shape_modes
from face_align_env.networks.lrn import LRN


def test_on_patches_ppo_gives_the_value_a_small_weight(toy_vec_env: Any, lrn: LRN) -> None:
    patches = toy_vec_env(2)
    modes = shape_modes(patches.get_attr("faces")[0].prepared.landmarks, 4)
    features = PretrainedFeatures(toy_vec_env(2, learned=True), lrn, modes)
    small = {"n_steps": 8, "batch_size": 8}
    weights = {}
    for name, env in {"patches": patches, "features": features}.items():
        model = make_learner("ppo", env, "scratch", lrn, 0, 100, small)
        assert isinstance(model, PPO)
        assert model.n_steps == 8, "what is asked for wins"
        weights[name] = model.vf_coef
    assert weights["patches"] == ALGORITHMS["ppo"].on_patches["vf_coef"] < weights["features"] == 0.5
