"""The space of a search: what may be asked for, and what is sampled from it."""

from __future__ import annotations

import numpy as np
import pytest

from face_align_env.agents.run_config import RunConfig
from face_align_env.agents.sweep.plan import Sweep
from face_align_env.agents.sweep.space import Space, parse_dimension, with_values
from face_align_env.pretrain.settings import SettingError


def test_values_lie_in_their_ranges_and_are_functions_of_number_and_seed() -> None:
    space = Space.parse(["lrn-learning-rate=log:1e-4:1e-2", "gen-epochs=2:5", "alpha-2=2.0:6.0", "set.noise=1,2"])
    found = [space.values(trial, 0) for trial in range(200)]
    assert found == [space.values(trial, 0) for trial in range(200)]
    assert found[3] != space.values(3, 1)
    rates = np.array([each["lrn-learning-rate"] for each in found if each])
    assert ((rates >= 1e-4) & (rates <= 1e-2)).all()
    assert 0.4 < (rates < 1e-3).mean() < 0.6, "half of them in each decade"
    assert {each["gen-epochs"] for each in found if each} == {2, 3, 4, 5}
    assert all(isinstance(each["gen-epochs"], int) for each in found if each)
    assert {each["set.noise"] for each in found if each} == {1, 2}
    assert all(2 <= each["alpha-2"] <= 6 for each in found if each)


def test_lists_alone_are_a_grid() -> None:
    space = Space.parse(["gen-epochs=1,2,3", "preset=tiny,compact"])
    found = [space.values(trial, 5) for trial in range(7)]
    assert found[6] is None
    assert len({tuple(each.items()) for each in found if each is not None}) == 6
    assert len(list(Sweep(RunConfig(), space, trials=10, seeds=2).trainings())) == 12


def test_settings_are_those_of_a_run() -> None:
    config = with_values(
        RunConfig(), {"timesteps": 99, "set.noise": 0.5, "augmentation.rotation": 10, "gen-epochs": 3, "agent": "paper"}
    )
    assert config.agent.timesteps == 99
    assert config.agent.overrides == {"noise": 0.5}
    assert config.augmentation == {"rotation": 10}
    assert config.gen_epochs == 3
    assert config.agent.preset == "paper"
    assert with_values(config, {"set.tau": 0.1}).agent.overrides == {"noise": 0.5, "tau": 0.1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alpha-2", "must be KEY=a,b,c"),
        ("alpha-2=", "must be KEY=a,b,c"),
        ("alpha-2=log:3", "log: takes a range"),
        ("alpha-2=a:b", "no two numbers"),
        ("alpha-2=6:2", "must be finite and rise"),
        ("alpha-2=1:inf", "must be finite and rise"),
        ("alpha-2=log:0:2", "log: takes positive numbers"),
    ],
)
def test_what_is_no_dimension_is_refused(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        parse_dimension(text)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ([], "at least one setting"),
        (["gen-epochs=1,2", "gen-epochs=3,4"], "'gen-epochs' twice"),
        (["nonsense=1,2"], "no setting 'nonsense'; there are .*lrn-learning-rate"),
        (["gen-epochs=0:3"], "must be at least 1"),
        (["gen-epochs=1.0:3.0"], "must be a whole number"),
        (["lrn-learning-rate=-1.0:1.0"], "must be above"),
        (["preset=tiny,huge"], "'huge' is unknown"),
        (["set.nonsense=1,2"], "no keyword 'nonsense'"),
        (["set=1,2"], "'set.KEYWORD'"),
        (["alpha-2.x=1,2"], "names this setting 'alpha-2'"),
        (["seed=1,2"], "--seeds"),
        (["option.size=1,2"], "no setting 'option.size'"),
        (["option.held_out=0.1,0.2"], "--held-out"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_is_trained(search: list[str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Sweep(RunConfig(), Space.parse(search)).check()
