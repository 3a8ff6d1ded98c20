"""The episodes behind both environments: N faces at once, one implementation of the dynamics.

:class:`EpisodeBatch` holds the state of N episodes, begins them and advances them. ``FaceAlignEnv`` is a batch of one,
``FaceAlignVectorEnv`` a batch of N. What does not change from episode to episode is the :class:`Task` of
:mod:`face_align_env.keywords`; the equations themselves are in :mod:`face_align_env.mdp`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from face_align_env import mdp
from face_align_env.arrays import HOST, Arrays
from face_align_env.crops import CROP_SIZE
from face_align_env.initialization import MeanShape
from face_align_env.keywords import Task
from face_align_env.mdp import HISTORY_SIZE
from face_align_env.patches import extract_patches, inner, pad_crops, pad_in_place
from face_align_env.sequences import first_frame

ALL = slice(None)
FARTHEST = 10 * CROP_SIZE  # pixels; what begins farther from the crop does not come back within an episode
Slots = slice | npt.NDArray[np.int64]
"""Which episodes of a batch: :data:`ALL`, or their numbers."""


def check_reset_options(options: Mapping[str, Any] | None, known: Collection[str]) -> Mapping[str, Any]:
    """The options of ``reset``; an empty mapping where there are none.

    :param known: what may be among them
    :raises ValueError: there is something else
    """
    unknown = [key for key in options or {} if key not in known]
    if unknown:
        raise ValueError(f"reset() knows the options {', '.join(known)}; got {unknown[0]!r}.")
    return options or {}


def valid_actions(actions: Any, space: spaces.Box, layout: str, arrays: Arrays = HOST) -> Any:
    """Actions as float32, clipped to their space; a copy.

    :param actions: of the shape of ``space``
    :param layout: what an action's numbers are, for the messages
    :param arrays: which kind of arrays they become
    :raises ValueError: when the shape differs, or there is a NaN
    """
    array = arrays.of(actions, "float32")
    if tuple(array.shape) != space.shape:
        raise ValueError(f"Expected an action of shape {space.shape} ({layout}), got {tuple(array.shape)}.")
    unknown = array != array  # NaN, in any kind of array
    if unknown.any():
        raise ValueError(f"The action holds {int(unknown.sum())} NaN; it must be made of numbers ({layout}).")
    return arrays.clip(array, arrays.of(space.low), arrays.of(space.high))


class Outcome(NamedTuple):
    """What an iteration of M episodes has led to.

    :param rewards: (M,) float64
    :param terminated: (M,) bool
    :param truncated: (M,) bool
    :param success: (M,) bool, the episode has ended by Eq. 3, or by the agent's word, with an NME below alpha_1
    """

    rewards: Any
    terminated: Any
    truncated: Any
    success: Any


class EpisodeBatch:
    """The state of N episodes.

    :param task: what they have in common
    :param num_slots: N
    :param arrays: which kind of arrays the state is kept in
    :ivar begun: (N,) bool, whether there is an episode in the slot; the rest means nothing where there is none
    :ivar index: (N,) int64, the face
    :ivar view_seed: (N,) int64, with ``index`` it identifies the crop
    :ivar padded: (N, 256 + 2p, 256 + 2p, 3) uint8, the crops with a border of the patch size p; (0, ...) where no
        patches are observed
    :ivar ground_truth: (N, K, 2) float32, crop pixels
    :ivar d: (N,) float64, Eq. 2's normalising distance, crop pixels
    :ivar counted: (N, K) bool, the landmarks that Eq. 2 counts
    :ivar x_0: (N, K, 2) float32, where the episode began
    :ivar x: (N, K, 2) float32, x_t
    :ivar x_previous: (N, K, 2) float32, x_{t-1}; x_0 at the beginning
    :ivar history: (N, 512) float32, d_t
    :ivar nme: (N,) float64, NME of x_t
    :ivar initial_nme: (N,) float64, NME of x_0
    :ivar t: (N,) int64, number of iterations so far, of a sequence: in this frame
    :ivar steps: (N,) int64, number of iterations so far
    :ivar frame_number: (N,) int64, number of the frame
    :ivar frames_found: (N,) int64, number of frames that have ended in a terminal state with an NME below alpha_1
    :ivar frame_nme: (N,) float64, NME at the end of the frame that ended last; infinite before
    :ivar frame_iterations: (N,) int64, its number of iterations
    :ivar previous_view_seed: (N,) int64, ``view_seed`` of s_{t-1}
    :ivar last_reward: (N,) float64, reward of the last iteration; 0 at the beginning
    """

    def __init__(self, task: Task, num_slots: int, arrays: Arrays = HOST) -> None:
        self.task, self.arrays = task, arrays
        n, k = num_slots, task.num_landmarks
        side = CROP_SIZE + 2 * task.patch_size
        self.begun = np.zeros(n, dtype=np.bool_)  # on the host, which asks for it
        self.index = self._new((n,), "int64")
        self.view_seed = self._new((n,), "int64")
        self.padded = self._new((n if task.observe_patches else 0, side, side, 3), "uint8")
        self.ground_truth = self._new((n, k, 2))
        self.d = self._new((n,), "float64", 1)
        self.counted = self._new((n, k), "bool", True)
        self.x_0 = self._new((n, k, 2))
        self.x = self._new((n, k, 2))
        self.x_previous = self._new((n, k, 2))
        self.history = self._new((n, HISTORY_SIZE))
        self.nme = self._new((n,), "float64")
        self.initial_nme = self._new((n,), "float64")
        self.t = self._new((n,), "int64")
        self.steps = self._new((n,), "int64")
        self.frame_number = self._new((n,), "int64")
        self.frames_found = self._new((n,), "int64")
        self.frame_nme = self._new((n,), "float64", np.inf)
        self.frame_iterations = self._new((n,), "int64")
        self.previous_view_seed = self._new((n,), "int64")
        self.last_reward = self._new((n,), "float64")

    def _new(self, shape: tuple[int, ...], dtype: str = "float32", value: float = 0) -> Any:
        return self.arrays.full(shape, value, dtype)

    def begin(self, slots: Slots, indices: npt.ArrayLike, seeds: npt.ArrayLike) -> None:
        """Begin new episodes. Where this fails, the slots have no episode until they begin again.

        :param slots: M slots
        :param indices: (M,) faces
        :param seeds: (M,) seeds of their views
        :raises ValueError: when the initializer does not give M shapes of K landmarks, finite and not far from the crop
        :raises BadFaceError: an image cannot be read
        """
        self.begun[slots] = False
        index, seed = np.asarray(indices, dtype=np.int64), np.asarray(seeds, dtype=np.int64)
        if self.task.frames > 1:
            seed = first_frame(seed)
        ground_truth, d, counted = self.task.source.annotations(index, seed)
        crops = self._make_crops(slots, index, seed, seen=not isinstance(self.task.initializer, MeanShape))
        x_0 = np.asarray(self.task.initializer(crops), dtype=np.float32)
        if x_0.shape != ground_truth.shape or not (np.abs(x_0) <= FARTHEST).all():
            wrong = "" if np.isfinite(x_0).all() else " with values that are not finite"
            if x_0.size and not wrong:
                wrong = f" with coordinates up to {np.abs(x_0).max():.3g}"
            raise ValueError(
                f"The initializer must give finite shapes {ground_truth.shape}, in pixels of the crop and at most "
                f"{FARTHEST} from its corner; it gave {x_0.shape}{wrong}."
            )
        self._begin_frame(slots, seed, self.arrays.of(x_0), ground_truth, d, counted)
        self.index[slots], self.previous_view_seed[slots] = self.arrays.of(index), self.view_seed[slots]
        self.x[slots] = self.x_previous[slots] = self.x_0[slots]
        self.history[slots] = 0
        for counter in (self.steps, self.frame_number, self.frames_found, self.frame_iterations):
            counter[slots] = 0
        self.frame_nme[slots] = np.inf
        self.last_reward[slots] = 0
        self.begun[slots] = True

    def _next_frame(self, slots: npt.NDArray[np.int64]) -> None:
        """Go on to the next frame of each sequence, with the shape and the history of the frame before.

        :param slots: (M,) their numbers
        """
        index, seed = self.arrays.host(self.index[slots]), self.arrays.host(self.view_seed[slots]) + 1
        ground_truth, d, counted = self.task.source.annotations(index, seed)
        self._make_crops(slots, index, seed, seen=False)
        self._begin_frame(slots, seed, self.x[slots], ground_truth, d, counted)
        self.frame_number[slots] += 1

    def _begin_frame(
        self,
        slots: Slots,
        seed: npt.NDArray[np.int64],
        x_0: Any,
        *truth: npt.NDArray[Any],
    ) -> None:
        """What is new with each view: where it begins, and the truth (shape, d, and the landmarks that count)."""
        ground_truth, d, counted = (self.arrays.of(each) for each in truth)
        self.view_seed[slots], self.x_0[slots] = self.arrays.of(seed), x_0
        self.ground_truth[slots], self.d[slots], self.counted[slots] = ground_truth, d, counted
        self.nme[slots] = self.initial_nme[slots] = mdp.nme(x_0, ground_truth, d, counted)
        self.t[slots] = 0

    def _make_crops(
        self, slots: Slots, index: npt.NDArray[np.int64], seed: npt.NDArray[np.int64], seen: bool
    ) -> npt.NDArray[np.uint8]:
        """Fill ``padded``, where patches are observed.

        :param seen: whether somebody looks at the crops
        :return: the crops, his own; nothing where nobody looks
        """
        p, source = self.task.patch_size, self.task.source
        nothing = np.empty((len(index), 0, 0, 3), dtype=np.uint8)
        if not self.task.observe_patches:
            return source.crops(index, seed) if seen else nothing
        everywhere = len(index) == len(self.index)
        if not self.arrays.on_host:
            crops = source.crops(index, seed)
            self.padded[slots] = pad_crops(self.arrays.of(crops), p)
            return crops
        whole = self.arrays.host(self.padded)
        padded = whole if everywhere else np.empty((len(index), *whole.shape[1:]), dtype=np.uint8)
        # The crops are made where they stay. Whoever gives x_0 gets his own: these change with the next episode.
        crops = source.crops(index, seed, out=inner(padded, p))
        found = crops.copy() if seen else nothing
        pad_in_place(padded, p)
        if not everywhere:
            whole[slots] = padded
        return found

    def advance(self, slots: Slots, actions: Any) -> Outcome:
        """One iteration: from s_t and a_t to s_{t+1} and its reward.

        :param slots: M slots
        :param actions: (M, A), see :func:`valid_actions`
        """
        task, parameters = self.task, self.task.parameters
        width = 2 * task.num_landmarks
        a, said, d_next = actions[:, :width], actions[:, width:], actions[:, width + task.agent_stops :]
        x, nme_before, t = self.x[slots], self.nme[slots], self.t[slots] + 1

        x_next = mdp.transition(x, a)
        nme_after = mdp.nme(x_next, self.ground_truth[slots], self.d[slots], self.counted[slots])
        at_limit = t >= parameters.max_iterations
        if task.termination == "limit":
            # When to stop is given. What is left of Eq. 3 is whether the shape is good enough, asked once.
            stopped = at_limit & mdp.is_terminal(nme_after, a, parameters.alpha_1, alpha_2=np.inf)
        elif task.agent_stops:
            stopped = mdp.stops(said[:, 0])
        else:
            known_nme = nme_after if task.termination == "oracle" else 0.0
            stopped = mdp.is_terminal(known_nme, a, parameters.alpha_1, parameters.alpha_2)
        # Who stops without knowing the NME is still paid by it.
        success, ended = stopped & (nme_after < parameters.alpha_1), stopped | at_limit
        rewards = self._rewards(nme_before, nme_after, success, ended)
        if not task.learned_history:
            d_next = self.arrays.concatenate([a / task.action_limit, self.history[slots]], axis=1)[:, :HISTORY_SIZE]

        # x may be a view of self.x: it is kept before it is overwritten
        self.x_previous[slots] = x
        self.x[slots], self.history[slots] = x_next, d_next
        self.nme[slots], self.t[slots], self.last_reward[slots] = nme_after, t, rewards
        self.steps[slots] += 1
        terminated = ended if task.terminate_at_limit else stopped
        outcome = Outcome(rewards, terminated, ended & ~terminated, success)
        return outcome if task.frames == 1 else self._of_sequences(slots, outcome)

    def _of_sequences(self, slots: Slots, of_frames: Outcome) -> Outcome:
        """What has become of the sequences whose frames have come to this."""
        some = np.arange(len(self.index))[slots]
        self.previous_view_seed[some] = self.view_seed[some]
        frame_ended = of_frames.terminated | of_frames.truncated
        left = some[self.arrays.host(frame_ended)]
        self.frame_nme[left], self.frame_iterations[left] = self.nme[left], self.t[left]
        self.frames_found[some] += of_frames.success
        last = self.frame_number[some] + 1 == self.task.frames
        going = some[self.arrays.host(frame_ended & ~last)]
        if len(going):
            self._next_frame(going)
        return Outcome(
            of_frames.rewards,
            of_frames.terminated & last,
            of_frames.truncated & last,
            frame_ended & last & (self.frames_found[some] == self.task.frames),
        )

    def _rewards(
        self,
        nme_before: Any,
        nme_after: Any,
        success: Any,
        ended: Any,
    ) -> Any:
        parameters = self.task.parameters
        if parameters.reward == "dense":
            rewards = mdp.dense_reward(nme_before, nme_after)
        else:
            rewards = mdp.reward(nme_before, nme_after, success, ended, parameters.beta_1, parameters.beta_2)
        if parameters.reward == "shaped":
            gamma, scale = parameters.shaping_gamma, parameters.shaping_scale
            rewards = rewards + mdp.shaping(nme_before, nme_after, ended, gamma, scale)
        return rewards - parameters.iteration_cost

    def observations(self, slots: Slots = ALL, out: npt.NDArray[np.uint8] | None = None) -> dict[str, Any]:
        """s_t of each slot: ``patches`` (M, K, p, p, 3) uint8, ``history`` (M, 512) float32, and what else is observed.

        Without ``observe_patches`` there are none.

        :param out: NumPy only: the array to fill with the patches; None: a new one. All else is new.
        """
        found: dict[str, Any] = {}
        if self.task.observe_patches:
            faces = None if isinstance(slots, slice) else self.arrays.of(slots)
            found["patches"] = extract_patches(self.padded, self.x[slots], self.task.patch_size, faces, out)
        found["history"] = self.arrays.copy(self.history[slots])
        if self.task.observe_time:
            left = 1 - self.t[slots] / self.task.parameters.max_iterations
            found["time_left"] = self.arrays.of(left[:, None], "float32")
        if self.task.observe_time and self.task.frames > 1:
            ahead = 1 - self.frame_number[slots] / self.task.frames
            found["frames_left"] = self.arrays.of(ahead[:, None], "float32")
        if self.task.observe_residual:
            found["residual"] = (self.ground_truth[slots] - self.x[slots]).reshape(len(found["history"]), -1)
        return found

    def infos(self) -> dict[str, Any]:
        """What ``info`` says of each slot; (N, ...) arrays that belong to this batch."""
        found: dict[str, Any] = {
            "nme": self.nme,
            "initial_nme": self.initial_nme,
            "iterations": self.t,
            "landmarks": self.x,
            "previous_landmarks": self.x_previous,
            "image_index": self.index,
            "view_seed": self.view_seed,
        }
        if self.task.frames > 1:
            names = ("frames_found", "frame_nme", "frame_iterations", "previous_view_seed")
            found |= {"frame": self.frame_number, **{name: getattr(self, name) for name in names}}
        return found

    def frame(self, slot: int) -> npt.NDArray[np.uint8]:
        """Picture of one slot's state, (512, 512, 3) uint8 RGB; see :func:`face_align_env.rendering.draw_state`."""
        from face_align_env.rendering import draw_state

        one = slice(slot, slot + 1)
        index, seed, x_t, x_0, ground_truth, counted = (
            self.arrays.host(each[one])
            for each in (self.index, self.view_seed, self.x, self.x_0, self.ground_truth, self.counted)
        )
        crop = self.task.source.crops(index, seed)[0]
        caption = f"frame {self.frame_number[slot]}   " if self.task.frames > 1 else ""
        caption += f"t = {self.t[slot]}   NME {100 * self.nme[slot]:.2f} %"
        if self.steps[slot]:
            caption += f"   reward {self.last_reward[slot]:+.{0 if self.task.parameters.reward == 'paper' else 2}f}"
        return draw_state(
            crop,
            self.task.source.prepared.scheme,
            x_t=x_t[0],
            x_0=x_0[0],
            ground_truth=ground_truth[0],
            patch_size=self.task.patch_size,
            caption=caption,
            annotated=counted[0],
        )
