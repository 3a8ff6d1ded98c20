"""Memory, patches, environments: what hands out observations, against the machine's copying."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from face_align_env.agents.speed.measure import Baseline, Entry, Limit, Timing, timed
from face_align_env.agents.speed.workbench import COPY, Workbench
from face_align_env.env import FaceAlignEnv
from face_align_env.initialization import GENInitializer
from face_align_env.mdp import HISTORY_SIZE, MAX_ITERATIONS
from face_align_env.patches import PATCH_SIZE, extract_patches, pad_crops
from face_align_env.vector_env import FaceAlignVectorEnv

_MOST_SYNC = 64  # faces
_MOST_ASYNC = 16  # processes
_MOST_POLICY_ALONE = 64  # faces
_CYCLE = MAX_ITERATIONS + 1  # calls from one reset to the next: with autoreset, it is a step that does nothing else
_SYNC = SyncVectorEnv.__name__
_ALONE = "policy alone"


def measure_memory(bench: Workbench) -> Iterator[Entry]:
    """The copy bandwidth."""
    num_bytes = 64 * patch_bytes(bench)
    (copy,) = bench.compare(bench.copying(num_bytes))
    yield timed("memory", "copy of 64 observations, cold to warm", copy, num_bytes, "byte")


def patch_bytes(bench: Workbench) -> int:
    """Bytes of the patches of one face."""
    return bench.prepared.scheme.num_landmarks * PATCH_SIZE * PATCH_SIZE * 3


def measure_patches(bench: Workbench) -> Iterator[Entry]:
    """:func:`~face_align_env.patches.extract_patches` on NumPy arrays, into an array that is there."""
    for n in bench.choose((1, 16, 64, 256), (1, 2)):
        padded, shapes = pad_crops(bench.crops(n)), bench.shapes(n)
        num_bytes = n * patch_bytes(bench)

        patches = np.empty((*shapes.shape[:2], PATCH_SIZE, PATCH_SIZE, 3), np.uint8)

        def extract_again(padded: Any = padded, shapes: Any = shapes, out: Any = patches) -> None:
            extract_patches(padded, shapes, out=out)

        copy, extract = bench.compare(bench.copying(num_bytes), extract_again)
        name = f"extract_patches, {n} face{'' if n == 1 else 's'}"
        yield timed("patches", name, extract, num_bytes, "byte", Limit(COPY, copy))


def measure_env(bench: Workbench) -> Iterator[Entry]:
    """Whole episodes of random actions, from the mean shape and from GEN; then steps with LRN as the policy."""
    sizes = bench.choose((1, 16, 64, 256), (1, 2))
    for n in sizes:
        with ExitStack() as stack:
            cycles = {name: random_cycle(env) for name, env in _environments(bench, n, stack).items()}
            times = _compare(bench, num_bytes_of(bench, n), cycles)
        yield from _entries(times, n, n * _CYCLE, "")
    for n in sizes:
        with ExitStack() as stack:
            vectors = _vectors(bench, n, stack, initializer=GENInitializer(bench.gen, str(bench.device)))
            times = _compare(bench, num_bytes_of(bench, n), {name: random_cycle(env) for name, env in vectors.items()})
        yield from _entries(times, n, n * _CYCLE, " + GEN")
    for n in sizes:
        with ExitStack() as stack:
            # No episode ends: what is compared is the step, and a reset now and then would be in some of the repeats.
            endless = {"learned_history": True, "max_iterations": 10**9, "alpha_1": 1e-9}
            endless["action_limit"] = bench.lrn.config.action_limit
            endless["patch_size"] = bench.lrn.config.patch_size
            environments = _environments(bench, n, stack, **endless)
            players: dict[str, Callable[[], object]] = {
                name: _PolicyStep(env, bench.act) for name, env in environments.items()
            }
            if n <= _MOST_POLICY_ALONE:
                observations: Any = environments[FaceAlignVectorEnv.__name__].reset(seed=0)[0]
                players[_ALONE] = partial(bench.act, observations)
            times = _compare(bench, n * observation_bytes(bench), players)
        yield from _entries(times, n, n, " + policy")


def num_bytes_of(bench: Workbench, n: int) -> int:
    """Bytes of the observations of an episode of ``n`` faces."""
    return _CYCLE * n * observation_bytes(bench)


def observation_bytes(bench: Workbench) -> int:
    """Bytes of the observation of one face."""
    return patch_bytes(bench) + 4 * HISTORY_SIZE


def random_cycle(env: FaceAlignEnv | VectorEnv[Any, Any, Any]) -> Callable[[], object]:
    """A function that plays an episode of each face with random actions, and begins the next one.

    Increments drawn from all over the action space never satisfy Eq. 3: each episode has all ten iterations, and a
    batch ends its episodes together.
    """
    env.reset(seed=0)
    space = env.action_space
    space.seed(0)
    if isinstance(env, VectorEnv):
        actions = [space.sample() for _ in range(_CYCLE)]
        return partial(_play_batch, env, actions)
    return partial(_play_single, env, [space.sample() for _ in range(MAX_ITERATIONS)])


def _play_batch(envs: VectorEnv[Any, Any, Any], actions: list[npt.NDArray[np.float32]]) -> None:
    for action in actions:
        envs.step(action)


def _play_single(env: FaceAlignEnv, actions: list[npt.NDArray[np.float32]]) -> None:
    env.reset()
    for action in actions:
        env.step(action)


class _PolicyStep:
    """One step of an environment with a policy, from where the last call has left it."""

    def __init__(
        self,
        env: FaceAlignEnv | VectorEnv[Any, Any, Any],
        act: Callable[[dict[str, Any]], Any],
    ) -> None:
        self.env, self.act = env, act
        self.observations: Any = env.reset(seed=0)[0]

    def __call__(self) -> None:
        if isinstance(self.env, VectorEnv):
            self.observations = self.env.step(self.act(self.observations))[0]
        else:
            batch = {key: value[None] for key, value in self.observations.items()}
            self.observations = self.env.step(self.act(batch)[0])[0]


def _environments(
    bench: Workbench, n: int, stack: ExitStack, **options: Any
) -> dict[str, FaceAlignEnv | VectorEnv[Any, Any, Any]]:
    """The ways to play ``n`` faces, by name; the stack closes them."""
    options = {"dataset": bench.source, "initializer": "mean", **options}
    single = partial(FaceAlignEnv, **options)
    made: dict[str, FaceAlignEnv | VectorEnv[Any, Any, Any]] = {}
    if n <= _MOST_SYNC:
        made[_SYNC] = SyncVectorEnv([single] * n)
    if n == 1:
        made[FaceAlignEnv.__name__] = single()
    if n <= _MOST_ASYNC:
        with warnings.catch_warnings():
            # Its workers are forked where Gymnasium's default is to fork; they run no torch.
            warnings.simplefilter("ignore", DeprecationWarning)
            made[AsyncVectorEnv.__name__] = AsyncVectorEnv([single] * n)
    for env in made.values():
        stack.enter_context(closing(env))
    return {**made, **_vectors(bench, n, stack, **options)}


def _vectors(bench: Workbench, n: int, stack: ExitStack, **options: Any) -> dict[str, VectorEnv[Any, Any, Any]]:
    """Batches of ``n`` faces: as arrays, and as tensors where the networks run; the stack closes them."""
    options = {"dataset": bench.source, **options}
    device = str(bench.device)
    made = {
        FaceAlignVectorEnv.__name__: FaceAlignVectorEnv(n, **options),
        f"{FaceAlignVectorEnv.__name__}[torch]": FaceAlignVectorEnv(n, backend="torch", device=device, **options),
    }
    for env in made.values():
        stack.enter_context(closing(env))
    return dict(made)


def _compare(bench: Workbench, num_bytes: int, functions: dict[str, Callable[[], object]]) -> dict[str, Timing]:
    times = bench.compare(bench.copying(num_bytes), *functions.values())
    return dict(zip((COPY, *functions), times, strict=True))


def _entries(times: dict[str, Timing], n: int, steps: int, suffix: str) -> Iterator[Entry]:
    for name, timing in times.items():
        if name == COPY:
            continue
        if name == _ALONE:
            whole = Baseline("with its env", times[FaceAlignVectorEnv.__name__])
            yield timed("env", f"{name}({n})", timing, steps, "step", baseline=whole)
        else:
            sync = Baseline(_SYNC, times[_SYNC]) if name != _SYNC and _SYNC in times else None
            limit = Limit(COPY, times[COPY])
            yield timed("env", f"{name}({n}){suffix}", timing, steps, "step", limit, sync)
