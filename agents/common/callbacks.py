"""The error in the curves: what FaceAlign-v0 says at the end of an episode, in Stable-Baselines3's logger."""

from __future__ import annotations

from collections import deque

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import safe_mean

# is_success is not among them: Stable-Baselines3 logs it by itself, as rollout/success_rate.
METRICS = ("nme", "initial_nme", "iterations")


class EpisodeMetrics(BaseCallback):
    """Logs ``rollout/nme``, ``rollout/initial_nme`` (fractions) and ``rollout/iterations`` of any algorithm.

    Each is the mean over the latest episodes, as many as Stable-Baselines3 takes for ``rollout/ep_rew_mean`` (its
    ``stats_window_size``, 100), and stands in the same row: of TensorBoard, CSV and standard output. It reads the last
    info of an episode, whether or not a monitor is there and whatever its ``info_keywords``.

    ``PPO("MultiInputPolicy", env, tensorboard_log="runs/ppo").learn(10_000, EpisodeMetrics())``

    :param verbose: as of any callback; there is nothing to say
    """

    def __init__(self, verbose: int = 0) -> None:
        super().__init__(verbose)
        self._latest: dict[str, deque[float]] = {}

    def _on_training_start(self) -> None:
        episodes = self.model.ep_info_buffer
        assert episodes is not None, "learn() makes it"
        self._latest = {key: deque(maxlen=episodes.maxlen) for key in METRICS}

    def _on_step(self) -> bool:
        """Note the episodes that have ended.

        :raises ValueError: the infos are not those of FaceAlign-v0
        """
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            if not done:
                continue
            if not set(METRICS) <= info.keys():
                raise ValueError(
                    f"EpisodeMetrics needs the infos of FaceAlign-v0 ({', '.join(METRICS)}); this is another "
                    f"environment, or a wrapper has replaced them: {', '.join(info) or 'they are empty'}."
                )
            for key, values in self._latest.items():
                values.append(float(info[key]))
        # In every step: off-policy algorithms write their log in the middle of a rollout, PPO after it, and what has
        # been written is gone from the logger.
        for key, values in self._latest.items():
            if values:
                self.logger.record(f"rollout/{key}", safe_mean(values))
        return True
