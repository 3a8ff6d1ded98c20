"""FaceAlignEnv: one face per episode. Its sibling for N faces is in :mod:`face_align_env.vector_env`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import logger, spaces
from gymnasium.error import ResetNeeded

from face_align_env.datasets import FaceDataset
from face_align_env.episodes import ALL, EpisodeBatch, check_reset_options, valid_actions
from face_align_env.extras import needs
from face_align_env.initialization import Initializer
from face_align_env.keywords import Keywords, PathLike, Reward, SpecOfStrings, Termination, check_render_mode, make_task
from face_align_env.prepared import FaceSource

if TYPE_CHECKING:
    from face_align_env.augmentation import Augmentation
    from face_align_env.sequences import Motion

Observation = dict[str, npt.NDArray[Any]]


class FaceAlignEnv(SpecOfStrings, gym.Env[Any, npt.NDArray[np.float32]]):
    """
    ## Description

    Face alignment as a sequence of decisions, after "Dynamic Cascaded Regression Network with
    Reinforcement Learning for Robust Face Alignment" (DCRN, Zhang et al.). The agent is shown
    the image patches around its current guess of K facial landmarks and answers with an increment for each of them.
    The episode ends by itself when the shape has settled; the fewer iterations, the better.

    ## Action Space

    `Box(-action_limit, action_limit, (2K,), float32)`: the increments `[dx_1, dy_1, ..., dx_K, dy_K]`, in pixels of
    the 256x256 crop of the face. Actions outside the box are clipped; a NaN or a wrong shape is a `ValueError`. The
    limit is chosen from data, so that the first corrections of real faces fit. On 300W full, 99.92 % of the coordinates
    of x^ - x_0 are within 32 pixels when the `tiny` GEN starts; from the mean shape 91.8 % are (300W train), and the
    others take two steps.

    Pixels are kept, rather than [-1, 1], because Eq. 3 and exploration noise speak pixels;
    `gymnasium.wrappers.RescaleAction` gives [-1, 1] to those who want it.

    With `termination="action"` the agent says itself when it is finished, by one more number in [-1, 1] after the
    increments: the space is `Box((2K + 1,))`. Where it is above 0, x_t + a_t is final.

    ## Observation Space

    The paper's state s_t = (p_t, d_t), a `Dict`:

    | Key       | Space                              | Meaning                                                            |
    |-----------|------------------------------------|--------------------------------------------------------------------|
    | `patches` | `Box(0, 255, (K, 30, 30, 3), uint8)` | p_t: RGB windows around the landmarks of x_t; beyond the crop its border is repeated; not with `observe_patches=False` |
    | `history` | `Box(-1, 1, (512,), float32)`      | d_t: the latest actions divided by `action_limit`, newest first, cut off at 512 numbers, zeros where there are none yet |
    | `time_left` | `Box(0, 1, (1,), float32)`       | only with `observe_time`: the share of `max_iterations` that is left, on which the -10 depends |
    | `residual` | `Box(-inf, inf, (2K,), float32)`  | only with `observe_residual`: x^ - x_t, pixels, for tests of algorithms without vision; photos have no such observation |

    In the paper the policy writes d_t itself (d_{t+1} = LRN(s_t)). That is `LearnedHistory(env)`, or
    `learned_history=True`: the action becomes `[a_t, d_{t+1}]` in R^{2K + 512}, or `[a_t, stop, d_{t+1}]` in R^{2K + 513}
    with `termination="action"`; its last part comes back as the next observation's `history`, and everything else sees
    the rest only. A history of actions has the increments alone.

    ## Transition

    x_{t+1} = x_t + a_t, and p_{t+1} is cropped around x_{t+1}.

    ## Rewards

    Eq. 4, from the normalised mean error (NME, Eq. 2) before and after the action:

    - `+1` where (1 - beta_1) NME(x_{t-1}) >= NME(x_t): the error has shrunk by at least 3 %
    - `-1` where (1 - beta_2) NME(x_{t-1}) <= NME(x_t): the error has grown by at least 2 %
    - `0` otherwise
    - `+10` instead, where the episode ends at a terminal state with an NME below alpha_1
    - `-10` instead, where it ends otherwise: by `max_iterations`, or on a face that has not been found: at rest
      under blind termination, where the agent stops under `termination="action"`

    Variants, with the paper's as the default:

    | `reward`   | What a step pays                                                                                |
    |------------|-------------------------------------------------------------------------------------------------|
    | `"paper"`  | Eq. 4, as above                                                                                 |
    | `"dense"`  | 100 (NME(x_{t-1}) - NME(x_t)), whatever the state: the reduction in percent                     |
    | `"shaped"` | Eq. 4 plus gamma Phi(s_t) - Phi(s_{t-1}) with Phi = -100 `shaping_scale` NME, and Phi = 0 of the state after the last step. The discounted return of an episode grows by -Phi(s_0), which no action changes, so that the optimal policy stays the same (Ng, Harada, Russell 1999): for an agent with the discount `shaping_gamma` that does not bootstrap past the limit of iterations |

    `iteration_cost` is taken from every reward of any kind.

    ## Starting State

    One face of the dataset: the training split is played in shuffled passes (each face once in a pass), any other
    split in order, again and again; `options={"index": i}` plays face i. x_0 comes from the initializer, d_0 = 0.
    `reset(seed=...)` begins the order of faces anew.

    ## Episode End

    1. Termination (Eq. 3), never before the first action. `"oracle"`, the default on every split: NME(x_t) < alpha_1
       and the L1 length of the action < alpha_2 K. `"blind"`: the paper's rule for testing, where nobody knows the NME:
       it is taken as 0, so only the action counts. It ends an episode wherever an agent stands still; the reward and
       `is_success` still know the NME. `"limit"`: a cascade of fixed length, never before `max_iterations` actions.
       Eq. 3's bound on the action says when to stop, and that is given, so only NME(x_t) < alpha_1 is asked, of the
       last state: +10 and terminated where it holds. A last step that is large and right should not be penalised.
       `"action"`: where the agent says so, see Action Space. Eq. 3 is not asked. With `reward="dense"` and an
       `iteration_cost`, the agent weighs what a further iteration removes against what it costs.
    2. The limit: `max_iterations` actions without a terminal state, -10. It truncates the episode, as limits of time do
       in Gymnasium; with `terminate_at_limit` it terminates it. Algorithm 1 of the paper does not bootstrap there, and
       the -10 is part of Eq. 4, so `terminate_at_limit` with `observe_time` is the same problem for every algorithm.

    ## Sequences

    With `frames` above 1 an episode is a sequence: a face that moves, seen in so many frames. Where an episode would end
    as above, the frame ends, and is paid; the next one begins with x_0 and d_0 where the agent has left x_t and d_t, and
    with all of `max_iterations` before it. The sequence ends with its last frame. `iteration_cost` makes few iterations a
    frame worth something. With `observe_time`, `frames_left` is observed as well: the share of the frames from this one on.

    ## Info

    | Key                  | Meaning                                                                                |
    |----------------------|----------------------------------------------------------------------------------------|
    | `nme`, `initial_nme` | NME of x_t and of x_0, fractions                                                       |
    | `iterations`         | number of actions so far                                                               |
    | `landmarks`          | x_t, (K, 2) float32, pixels of the crop                                                |
    | `previous_landmarks` | x_{t-1}; at the beginning x_0                                                          |
    | `image_index`        | the face's number in the dataset                                                       |
    | `view_seed`          | with `augment`, the seed of the random view; with `image_index` it identifies the crop |
    | `is_success`         | at the end only: whether it ended at a terminal state with an NME below alpha_1 (Stable-Baselines3 logs it) |
    | `frame`              | of a sequence: the number of the frame, from 0                                         |
    | `frames_found`       | ... how many frames have ended as `is_success` says of a photo; at the end that is whether all have |
    | `frame_nme`, `frame_iterations` | ... of the frame that ended last: the NME at its end, and its number of iterations; infinite and 0 before |
    | `previous_view_seed` | ... `view_seed` of the state before the last action, which `previous_landmarks` belongs to |

    ## Arguments

    ```python
    >>> import gymnasium as gym
    >>> import face_align_env
    >>> env = gym.make(
    ...     "FaceAlign-v0", dataset="synthetic", dataset_options={"size": 8}, initializer="mean", alpha_1=0.05
    ... )
    >>> observation, info = env.reset(seed=0)
    >>> observation["patches"].shape, observation["history"].shape
    ((68, 30, 30, 3), (512,))
    >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    >>> info["iterations"]
    1

    ```

    | Parameter         | Type                         | Default       | Description                                                        |
    |-------------------|------------------------------|---------------|--------------------------------------------------------------------|
    | `dataset`         | **str**, `FaceDataset`, `FaceSource` | `"synthetic"` | Name of a dataset, several of one scheme joined by `+`, or a dataset object, which brings its own split |
    | `split`           | **str**                      | `"train"`     | A split of the dataset; `"test"` is the test split, whatever its name (of 300W: `"full"`) |
    | `root`            | **path**                     | `None`        | Where the data is; see `load_dataset`                              |
    | `landmarks`       | **int**                      | `None`        | Number of landmarks, where the dataset offers several              |
    | `dataset_options` | **dict**                     | `None`        | Further keywords of the dataset, e.g. `{"boxes": "detector"}`      |
    | `initializer`     | **str**, **path**, callable  | `"gen"`       | x_0: `"gen"`, the released GEN (where there is none: the mean shape, with a warning); `"mean"`, the mean shape of the training split; a file of GEN's weights; or any callable from (N, 256, 256, 3) crops to (N, K, 2) shapes |
    | `termination`     | **str**                      | `"oracle"`    | `"oracle"`, `"blind"`, `"limit"` or `"action"`, see Episode End    |
    | `terminate_at_limit` | **bool**                  | `False`       | Whether `max_iterations` terminate an episode; otherwise they truncate it |
    | `alpha_1`         | **float**                    | `0.07`        | Eq. 3's bound on NME                                               |
    | `alpha_2`         | **float**                    | `None`        | Eq. 3's bound on the action, pixels per landmark; None: Table 2's value for the dataset (3.0 on 300W) |
    | `beta_1`          | **float**                    | `0.03`        | Eq. 4: the relative reduction of NME that earns +1                 |
    | `beta_2`          | **float**                    | `-0.02`       | Eq. 4: the relative reduction at or below which it costs -1        |
    | `max_iterations`  | **int**                      | `10`          | Most actions in an episode                                         |
    | `reward`          | **str**                      | `"paper"`     | `"paper"`, `"dense"` or `"shaped"`, see Rewards                    |
    | `iteration_cost`  | **float**                    | `0.0`         | Taken from every reward                                            |
    | `shaping_gamma`   | **float**                    | `0.9`         | `"shaped"`: the agent's discount, Table 2's                        |
    | `shaping_scale`   | **float**                    | `1.0`         | `"shaped"`: what a percent of NME is worth                         |
    | `action_limit`    | **float**                    | `32.0`        | Largest increment of a coordinate, pixels                          |
    | `patch_size`      | **int**                      | `30`          | Side of a patch, pixels                                            |
    | `normalizer`      | **str**                      | `None`        | Eq. 2's d: `"inter_ocular"`, `"inter_pupil"` or `"face_size"`; None: the dataset's own |
    | `margin`          | **float**                    | `None`        | Margin around a face's box, a fraction of its side; None: 0.15     |
    | `augment`         | **bool**, `Augmentation`, **dict** | `False` | Random views of the faces; a dict has the values of an `Augmentation` |
    | `frames`          | **int**                      | `1`           | Of the sequence that an episode is, see Sequences; 1: a photo      |
    | `motion`          | `Motion`, **dict**           | `None`        | How the face of a sequence moves; a dict has the values of a `Motion` |
    | `learned_history` | **bool**                     | `False`       | The policy writes d_t; see Observation Space                       |
    | `observe_patches` | **bool**                     | `True`        | The observation has `patches`; otherwise no image is read          |
    | `observe_time`    | **bool**                     | `False`       | The observation has `time_left`                                    |
    | `observe_residual` | **bool**                    | `False`       | The observation has `residual`                                     |
    | `device`          | **str**                      | `"cpu"`       | Where GEN runs                                                     |
    | `render_mode`     | **str**                      | `None`        | `"human"` or `"rgb_array"`                                         |

    A value that makes no sense is a `ValueError` that names its keyword. `env.spec.to_json()` works where the keywords
    are names, numbers, paths and dictionaries of them; JSON has no place for an initializer that is a callable, nor for
    a dataset object.

    Landmarks that a dataset marks as not annotated do not count in Eq. 2; occluded ones count, as in the published
    protocols (see `FaceDataset`).

    `FaceAlign-v0` is this environment with every keyword at its default. Results that are meant to be compared name one of
    the fixed tasks of `face_align_env.tasks`, such as `FaceAlign/Synthetic19-v0`.

    ## Vectorized environment

    `FaceAlignVectorEnv` plays N faces as one batch; its slots play what N single environments would, to the bit.

    ```python
    >>> envs = gym.make_vec("FaceAlign-v0", num_envs=3, dataset_options={"size": 8}, initializer="mean")
    >>> envs
    FaceAlignVectorEnv(FaceAlign-v0, num_envs=3)

    ```

    ## Version History
    * v0: Initial version. Before its first release, splits other than the training one had blind termination by
      default, and a blind end paid +10 whatever the NME: returns and successes on such splits from then cannot be
      compared with those of now. The training split, and `"oracle"` and `"limit"` anywhere, have not changed.
    """  # noqa: E501 - Markdown tables do not wrap

    action_space: spaces.Box

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 2}  # noqa: RUF012 - declared so by Gymnasium

    def __init__(
        self,
        dataset: str | FaceDataset | FaceSource = "synthetic",
        split: str = "train",
        root: PathLike | None = None,
        landmarks: int | None = None,
        dataset_options: Mapping[str, Any] | None = None,
        initializer: PathLike | Initializer = "gen",
        termination: Termination = "oracle",
        terminate_at_limit: bool = False,
        alpha_1: float = 0.07,
        alpha_2: float | None = None,
        beta_1: float = 0.03,
        beta_2: float = -0.02,
        max_iterations: int = 10,
        reward: Reward = "paper",
        iteration_cost: float = 0.0,
        shaping_gamma: float = 0.9,
        shaping_scale: float = 1.0,
        action_limit: float = 32.0,
        patch_size: int = 30,
        normalizer: str | None = None,
        margin: float | None = None,
        augment: bool | Augmentation | Mapping[str, Any] = False,
        frames: int = 1,
        motion: Motion | Mapping[str, Any] | None = None,
        learned_history: bool = False,
        observe_patches: bool = True,
        observe_time: bool = False,
        observe_residual: bool = False,
        device: str = "cpu",
        render_mode: str | None = None,
    ) -> None:
        check_render_mode(render_mode, self.metadata["render_modes"])
        keywords = Keywords(
            dataset=dataset,
            split=split,
            root=root,
            landmarks=landmarks,
            dataset_options=dataset_options,
            initializer=initializer,
            termination=termination,
            terminate_at_limit=terminate_at_limit,
            alpha_1=alpha_1,
            alpha_2=alpha_2,
            beta_1=beta_1,
            beta_2=beta_2,
            max_iterations=max_iterations,
            reward=reward,
            iteration_cost=iteration_cost,
            shaping_gamma=shaping_gamma,
            shaping_scale=shaping_scale,
            action_limit=action_limit,
            patch_size=patch_size,
            normalizer=normalizer,
            margin=margin,
            augment=augment,
            frames=frames,
            motion=motion,
            learned_history=learned_history,
            observe_patches=observe_patches,
            observe_time=observe_time,
            observe_residual=observe_residual,
            device=device,
        )
        self.render_mode = render_mode
        self.task = make_task(keywords)
        self.episodes = EpisodeBatch(self.task, num_slots=1)
        self.observation_space = self.task.observation_space
        self.action_space = self.task.action_space
        self._order = self.task.new_order()
        self._running = False
        self._window: Any = None
        self._clock: Any = None

    @property
    def faces(self) -> FaceSource:
        """Where the faces come from; a :class:`FaceReplayBuffer` makes its observations of them."""
        return self.task.source

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode. Where this fails for its arguments, the episode before goes on; otherwise there is none.

        :param seed: of the order of faces and of the random views
        :param options: ``{"index": i}`` plays face i
        :raises ValueError: when there is no such face, or no such option
        """
        index = check_reset_options(options, ["index"]).get("index")
        self._order.check(index)
        super().reset(seed=seed)
        if seed is not None:
            self._order = self.task.new_order()
        self._running = False
        index, view_seed = self._order.draw(self.np_random, index)
        self.episodes.begin(ALL, [index], [view_seed])
        self._running = True
        if self.render_mode == "human":
            self.render()
        return self._observation(), self._info()

    def step(self, action: npt.NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One iteration.

        :param action: (2K,) increments in pixels; with ``termination="action"`` the number that stops after them; with
            a learned history d_{t+1} at the end
        :raises ValueError: when the shape differs, or there is a NaN
        :raises ResetNeeded: when the episode has ended or not begun
        """
        if not self._running:
            raise ResetNeeded("The episode has ended or not begun: call reset() before step().")
        actions = valid_actions(action, self.action_space, self.task.action_layout)[None]
        outcome = self.episodes.advance(ALL, actions)
        (reward,), (terminated,), (truncated,), (success,) = (each.tolist() for each in outcome)
        info = self._info()
        if terminated or truncated:
            self._running = False
            info["is_success"] = success
        if self.render_mode == "human":
            self.render()
        return self._observation(), reward, terminated, truncated, info

    def render(self) -> Any:
        """The face with x_0, x_t, the ground truth and some patch windows.

        :return: (512, 512, 3) uint8 RGB for ``"rgb_array"``; None for ``"human"``, which shows it in a window
        :raises MissingExtraError: ``"human"`` without pygame
        """
        if self.render_mode is None:
            logger.warn('render() needs a render mode: gym.make("FaceAlign-v0", render_mode="rgb_array")')
            return None
        if not self.episodes.begun.all():
            raise ResetNeeded("Call reset() before render().")
        frame = self.episodes.frame(0)
        if self.render_mode == "rgb_array":
            return frame
        self._show(frame)
        return None

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            import pygame

            pygame.display.quit()
            pygame.quit()
            self._window = None

    def _observation(self) -> Observation:
        return {key: value[0] for key, value in self.episodes.observations().items()}

    def _info(self) -> dict[str, Any]:
        return {
            key: value[0].copy() if value.ndim > 1 else value[0].item() for key, value in self.episodes.infos().items()
        }

    def _show(self, frame: npt.NDArray[np.uint8]) -> None:
        with needs("human", 'render_mode="human"'):
            import pygame
        if self._window is None:
            pygame.display.init()
            pygame.display.set_caption("FaceAlign-v0")
            self._window = pygame.display.set_mode((frame.shape[1], frame.shape[0]))
            self._clock = pygame.time.Clock()
        self._window.blit(pygame.surfarray.make_surface(frame.swapaxes(0, 1)), (0, 0))
        pygame.event.pump()
        self._clock.tick(self.metadata["render_fps"])
        pygame.display.flip()
