"""Episodes of a trained agent on a named task, as a Minari dataset for offline learning.

    python examples/collect_task.py
    python -c "import minari; print(minari.load_dataset('face-align/FaceAlign-State19-ppo-v0'))"

The agents are those that come with the package (`face_align_env.agents.trained`). With ``--noise`` the agent's actions
are disturbed, so that the dataset shows what comes of actions that it would not have taken. For ``FaceAlign-v0``
itself, with patches, there is ``face-align collect``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import gymnasium as gym
import numpy as np

from face_align_env.agents.common.arguments import parse_arguments
from face_align_env.agents.trained import load_agent
from face_align_env.extras import needs


@dataclass
class Args:
    """Everything that can be changed from the command line."""

    task: str = "FaceAlign/State19-v0"
    """registered id"""
    algo: str = "ppo"
    """whose agent plays"""
    episodes: int = 200
    """to collect, of faces of the training split"""
    noise: float = 0.1
    """standard deviation of what is added to the actions, where a full step is 1"""
    seed: int = 0
    """of the order of faces and of the noise"""


def main(args: Args) -> None:
    """Collect."""
    with needs("minari", "A dataset of episodes"):
        import minari
        from minari.data_collector import EpisodeBuffer

    env = gym.make(args.task)
    agent = load_agent(args.algo, args.task, env=env)
    rng = np.random.default_rng(args.seed)
    episodes, successes = [], []
    for number in range(args.episodes):
        observation, info = env.reset(seed=args.seed if number == 0 else None)
        observations, steps = [observation], []
        while "is_success" not in info:
            action, _ = agent.predict(observation, deterministic=True)
            action = np.clip(action + rng.normal(0, args.noise, action.shape), -1, 1).astype(np.float32)
            observation, *outcome, info = env.step(action)
            observations.append(observation)
            steps.append((action, *outcome))
        actions, rewards, terminations, truncations = zip(*steps, strict=True)
        episodes.append(
            EpisodeBuffer(
                id=number,
                observations=np.stack(observations),
                actions=np.stack(actions),
                rewards=list(map(float, rewards)),
                terminations=list(terminations),
                truncations=list(truncations),
                infos={},
            )
        )
        successes.append(info["is_success"])
    name = re.sub(r"-v\d+$", "", args.task).replace("/", "-")
    dataset = minari.create_dataset_from_buffers(
        f"face-align/{name}-{args.algo}-v0",
        episodes,
        env=env,
        eval_env=gym.make(args.task, split="test"),
        algorithm_name=args.algo,
        description=f"The agent {args.algo} of face-align-env on {args.task}, actions with noise of {args.noise}.",
    )
    print(f"{dataset.id}: {dataset.total_episodes} episodes, {dataset.total_steps} transitions")
    returns = [sum(episode.rewards) for episode in episodes]
    print(f"mean return {np.mean(returns):+.2f}, success {100 * np.mean(successes):.1f} %")


if __name__ == "__main__":
    main(parse_arguments(Args, __doc__))
