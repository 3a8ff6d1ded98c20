"""The replay buffer against the update that it feeds, and training steps against their networks."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import DictReplayBuffer
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.vec_env import VecMonitor

from face_align_env.agents.common.replay_buffer import FaceReplayBuffer, bytes_per_transition
from face_align_env.agents.common.vec_env import FaceAlignVecEnv
from face_align_env.agents.dcrn.algorithm import DCRN
from face_align_env.agents.dcrn.config import AgentConfig
from face_align_env.agents.speed.environments import observation_bytes
from face_align_env.agents.speed.measure import Baseline, Entry, interleave, timed
from face_align_env.agents.speed.workbench import Workbench
from face_align_env.augmentation import Augmentation
from face_align_env.crops import CROP_SIZE
from face_align_env.networks import lrn as lrn_network
from face_align_env.networks.gen import GEN
from face_align_env.networks.lrn import LRN
from face_align_env.prepared import FaceSource
from face_align_env.pretrain.faces import DeviceFaces
from face_align_env.pretrain.loop import TrainingStep
from face_align_env.pretrain.objectives import CascadeObjective, GENObjective, Objective, StartJitter
from face_align_env.pretrain.recipes import ENCODER_SHARE, TrainingConfig

_LONGEST_STEP = 4.0  # seconds that a supervised training step may take; else its batch is halved, and halved again
_PROBE = 4  # faces that tell how long a step takes
_ITERATIONS = 8  # GEN-LRN8
_BARE_UPDATE = "bare gradient step"  # on transitions that are sampled already


class Agent:
    """DCRN in the midst of its training, as :func:`~face_align_env.agents.dcrn.training.train_dcrn` sets it up.

    :param bench: the faces and networks
    :param frozen: leave the patch encoder as it is: the replay buffer then keeps features instead of faces
    """

    def __init__(self, bench: Workbench, frozen: bool = True) -> None:
        config = AgentConfig()
        self.num_envs: int = bench.choose(config.num_envs, 2)
        self.batch_size: int = bench.choose(config.batch_size, 4)
        gen = bench.gen

        @torch.inference_mode()
        def start(crops: np.ndarray) -> np.ndarray:
            shapes: np.ndarray = (
                gen(torch.from_numpy(np.ascontiguousarray(crops)).to(bench.device)).float().cpu().numpy()
            )
            return shapes

        self.faces = FaceAlignVecEnv(
            self.num_envs,
            dataset=FaceSource(bench.prepared, Augmentation()),
            initializer=start,
            learned_history=True,
            action_limit=bench.lrn.config.action_limit,
            patch_size=bench.lrn.config.patch_size,
        )
        self.env = VecMonitor(self.faces)
        # critic_warmup=0: an update that trains the actor too, as all but the first ones do
        self.model = DCRN(
            env=self.env,
            lrn=bench.lrn,
            batch_size=self.batch_size,
            critic_warmup=0,
            freeze_encoder=frozen,
            precision="bf16-mixed" if bench.settings.precision == "bf16-mixed" else "32-true",
            buffer_size=4096,
            seed=0,
            device=bench.device,
        )
        self.model.set_logger(Logger(None, []))
        _, self._callback = self.model._setup_learn(10**9, CallbackList([]))
        for _ in range(max(2, self.batch_size // self.num_envs)):
            self.rollout()

    @property
    def buffer(self) -> FaceReplayBuffer | DictReplayBuffer:
        assert isinstance(self.model.replay_buffer, FaceReplayBuffer | DictReplayBuffer)
        return self.model.replay_buffer

    def rollout(self) -> None:
        """Collect one transition of each face."""
        model, once = self.model, TrainFreq(1, TrainFrequencyUnit.STEP)
        model.collect_rollouts(self.env, self._callback, once, self.buffer, model.action_noise)

    def update(self) -> None:
        """One gradient step."""
        self.model.train(1, self.batch_size)

    def update_on(self, sample: _Sampled) -> None:
        """One gradient step on transitions that need not be sampled."""
        buffer = self.model.replay_buffer
        self.model.replay_buffer = sample  # type: ignore[assignment]
        try:
            self.update()
        finally:
            self.model.replay_buffer = buffer

    def insertion(self) -> Callable[[], None]:
        """A function that stores the transitions of one more step, again and again."""
        model = self.model
        actions, stored = model._sample_action(0, model.action_noise, self.num_envs)
        after, rewards, dones, infos = self.env.step(actions)
        before = model._last_obs  # with a frozen encoder: encoded

        def insert() -> None:
            model._last_obs = before
            model._store_transition(self.buffer, stored, after, rewards, dones, infos)  # type: ignore[arg-type]

        return insert


class _Sampled:
    """A replay buffer's answer, without the buffer."""

    def __init__(self, buffer: FaceReplayBuffer | DictReplayBuffer, batch_size: int) -> None:
        self._sample = buffer.sample(batch_size)

    def sample(self, batch_size: int) -> Any:
        return self._sample


def measure_replay(bench: Workbench) -> Iterator[Entry]:
    """Inserting and sampling, as DCRN does it, in units of the gradient step that they serve.

    Twice: of faces, whose patches are cut again, for an encoder that learns; of features, for a frozen one.
    """
    for frozen in (False, True):
        agent = Agent(bench, frozen)
        buffer, batch, kind = agent.buffer, agent.batch_size, "features" if frozen else "faces"
        functions: dict[str, tuple[int, Callable[[], object]]] = {
            f"{kind}: insertion of {agent.num_envs}": (agent.num_envs, agent.insertion()),
            f"{kind}: sampling of {batch}": (batch, partial(buffer.sample, batch)),
        }
        if isinstance(buffer, FaceReplayBuffer):
            plain = copy.copy(buffer)
            plain.faces = bench.source
            functions[f"{kind}: sampling of {batch}, plain"] = (batch, partial(plain.sample, batch))
        update, *times = bench.compare(
            partial(agent.update_on, _Sampled(buffer, batch)), *(function for _, function in functions.values())
        )
        for (name, (count, _)), timing in zip(functions.items(), times, strict=True):
            yield timed("replay", name, timing, count, "transition", baseline=Baseline(_BARE_UPDATE, update))
        yield timed("replay", f"{kind}: {_BARE_UPDATE}, {batch}", update, batch, "transition",
                    baseline=Baseline("sampling", times[1]))  # fmt: skip
        kept = float(bytes_per_transition(buffer))
        ratio = kept / (2 * observation_bytes(bench))
        yield Entry(
            "replay", f"{kind}: memory of a transition", bytes=kept, ratio=ratio, ratio_to="its two observations"
        )
        agent.env.close()


def measure_training(bench: Workbench) -> Iterator[Entry]:
    """Training steps of GEN, LRN (GEN-LRN8) and DCRN."""
    gen, lrn = copy.deepcopy(bench.gen), LRN(lrn_network.preset(bench.recipe.lrn, bench.lrn.num_landmarks))
    start: GEN = copy.deepcopy(bench.gen)
    cascade = CascadeObjective(lrn, start, bench.choose(_ITERATIONS, 2), StartJitter(), encoder_share=ENCODER_SHARE)
    yield from _supervised(bench, "GEN", GENObjective(gen), gen.config.input_size, bench.recipe.gen_training)
    yield from _supervised(bench, f"GEN-LRN{cascade.iterations}", cascade, CROP_SIZE, bench.recipe.lrn_training)

    agent = Agent(bench)
    observations = agent.faces.envs.episodes.observations()  # the model's own are encoded
    forward, rollout, update = bench.compare(partial(bench.act, observations), agent.rollout, agent.update)
    n, batch = agent.num_envs, agent.batch_size
    alone = Baseline("the actor's forward pass", forward)
    yield timed("training", f"DCRN: rollout step, {n}", rollout, n, "transition", baseline=alone)
    collected = Baseline("the rollout step", rollout)
    yield timed("training", f"DCRN: gradient step, {batch}", update, batch, "transition", baseline=collected)
    agent.env.close()


def _supervised(
    bench: Workbench, name: str, objective: Objective, size: int, config: TrainingConfig
) -> Iterator[Entry]:
    faces = DeviceFaces(bench.prepared, size, bench.device, progress=False)
    batch_size = bench.choose(config.batch_size, _PROBE)
    config = replace(config, learning_rate=1e-9)  # the weights stay about where they are
    _, networks, _ = supervised_step(bench, objective, faces, config, _PROBE)
    (probe,) = interleave([networks], repeats=1, least=0, finish=bench.finish)
    while batch_size > _PROBE and batch_size * probe.seconds[0] / _PROBE > _LONGEST_STEP:
        batch_size //= 2
    step, networks, rest = supervised_step(bench, objective, faces, config, batch_size)
    whole, alone, others = bench.compare(step, networks, rest)
    of = "" if batch_size == config.batch_size else f" of {config.batch_size}"
    passes = Baseline("forward, backward", alone)
    yield timed("training", f"{name}: step, {batch_size}{of}", whole, batch_size, "face", baseline=passes)
    step_time = Baseline("the whole step", whole)
    yield timed("training", f"{name}: all but the passes", others, batch_size, "face", baseline=step_time)


def supervised_step(
    bench: Workbench, objective: Objective, faces: DeviceFaces, config: TrainingConfig, batch_size: int
) -> tuple[Callable[[], object], Callable[[], object], Callable[[], object]]:
    """What :func:`face_align_env.pretrain.loop.fit` does again and again, whole and in parts.

    The rest is timed by itself, and not the difference of the other two: that would be small beside their noise.

    :return: the step; its forward and backward pass, on a batch that is there already; and the rest: making a batch,
        clipping, Adam
    """
    config = replace(config, batch_size=batch_size)
    train = TrainingStep(objective.train(), faces, config, Augmentation(), bench.fabric)
    fixed = faces.training_batch(0, batch_size, config.seed, Augmentation())
    numbers = itertools.count()

    def passes() -> None:
        loss, _ = train.model(fixed)
        train.optimizer.zero_grad()
        bench.fabric.backward(loss)

    def rest() -> None:
        faces.training_batch(next(numbers), batch_size, config.seed, Augmentation())
        bench.fabric.clip_gradients(train.model, train.optimizer, max_norm=config.clip, error_if_nonfinite=False)
        train.optimizer.step()

    return lambda: train(next(numbers)), passes, rest
