"""The cascade: LRN again and again, with Eq. 3 to stop it."""

from __future__ import annotations

import torch
from torch import Tensor
from writers.networks import images, micro_lrn

from face_align_env.mdp import HISTORY_SIZE, transition
from face_align_env.networks.cascade import MeanStart, cascade, eq_3
from face_align_env.patches import extract_patches, pad_crops


def labelled_crops(n: int) -> Tensor:
    """Crop i is filled with 10 i: what the regressor sees tells which face it is."""
    return (10 * torch.arange(n, dtype=torch.uint8)).view(-1, 1, 1, 1).expand(-1, 256, 256, 3).contiguous()


class Scripted:
    """Moves face i by ``steps[i][t]`` pixels in x and in y at iteration t; d_t holds t and i."""

    def __init__(self, steps: list[list[float]]) -> None:
        self.steps = torch.tensor(steps)
        self.seen: list[list[int]] = []

    def __call__(self, patches: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        face = patches[:, 0, 0, 0, 0].long() // 10
        t = history[:, 0].long()
        assert torch.equal(history[:, 1], face * (t > 0)), "each face gets its own d_t back"
        self.seen.append(face.tolist())
        following = torch.zeros_like(history)
        following[:, 0], following[:, 1] = t + 1, face
        return self.steps[face, t][:, None].expand(-1, 136).clone(), following


def starts(n: int) -> Tensor:
    return 100 + 50 * torch.rand(n, 68, 2, generator=torch.Generator().manual_seed(5))


SCRIPT = [[1.0, 9, 9, 9], [5.0, 4, 1, 9], [5.0, 4, 3, 2], [5.0, 1.5, 1, 9]]  # |a|_1 is twice that for a landmark


def test_faces_that_have_stopped_leave_the_batch() -> None:
    regressor = Scripted(SCRIPT)
    steps = list(cascade(regressor, labelled_crops(4), starts(4), max_iterations=4, stop=eq_3(3.0)))
    # the step of 1.5 pixels is alpha_2 exactly: it does not stop (Eq. 3 says <)
    assert regressor.seen == [[0, 1, 2, 3], [1, 2, 3], [1, 2, 3], [2]]
    assert [step.faces.tolist() for step in steps] == regressor.seen
    assert [step.stopped.tolist() for step in steps] == [
        [True, False, False, False],
        [False, False, False],
        [True, False, True],
        [False],
    ]
    assert [step.iteration for step in steps] == [1, 2, 3, 4]


def test_the_cascade_ends_when_all_have_stopped() -> None:
    regressor = Scripted([[1.0] * 8, [5.0, 1] * 4])
    assert len(list(cascade(regressor, labelled_crops(2), starts(2), max_iterations=8, stop=eq_3(3.0)))) == 2


def test_faces_that_leave_do_not_change_the_others() -> None:
    crops, x_0 = labelled_crops(4), starts(4)
    together = {}
    for step in cascade(Scripted(SCRIPT), crops, x_0, 4, stop=eq_3(3.0)):
        for face, x in zip(step.faces.tolist(), step.landmarks, strict=True):
            together[face, step.iteration] = x
    for step in cascade(Scripted(SCRIPT), crops, x_0, 4):
        assert step.faces.tolist() == [0, 1, 2, 3], "without alpha_2 every face takes all steps"
        assert not step.stopped.any()
        for face, x in enumerate(step.landmarks):
            if (face, step.iteration) in together:
                assert torch.equal(x, together[face, step.iteration])
    assert len(together) == 4 + 3 + 3 + 1


def test_a_face_leaves_after_its_own_number_of_iterations() -> None:
    regressor = Scripted(SCRIPT)
    steps = list(cascade(regressor, labelled_crops(4), starts(4), torch.tensor([0, 3, 1, 4])))
    assert regressor.seen == [[1, 2, 3], [1, 3], [1, 3], [3]]
    assert [step.faces.tolist() for step in steps] == regressor.seen
    assert list(cascade(regressor, labelled_crops(2), starts(2), torch.tensor([0, 0]))) == []


def test_a_face_leaves_at_eq_3_or_after_its_own_number_of_iterations() -> None:
    regressor = Scripted(SCRIPT)
    list(cascade(regressor, labelled_crops(4), starts(4), torch.tensor([4, 2, 3, 4]), stop=eq_3(3.0)))
    assert regressor.seen == [[0, 1, 2, 3], [1, 2, 3], [2, 3]]


def test_a_cascade_goes_on_from_where_it_was() -> None:
    lrn, crops, x_0 = micro_lrn(5.0), images(3, 256, 256, 3), starts(3)
    first, second, third = cascade(lrn, crops, x_0, 3)
    (again,) = cascade(lrn, crops, second.landmarks, 1, history=second.history)
    torch.testing.assert_close(again.landmarks, third.landmarks, rtol=0, atol=0)
    torch.testing.assert_close(again.history, third.history, rtol=0, atol=0)
    (fresh,) = cascade(lrn, crops, second.landmarks, 1)
    assert not torch.equal(fresh.landmarks, third.landmarks)
    assert first.history.shape == (3, HISTORY_SIZE)


def test_the_cascade_is_the_loop_written_out() -> None:
    lrn, crops, x_0 = micro_lrn(5.0), images(3, 256, 256, 3), starts(3)
    x, d = x_0, torch.zeros(3, HISTORY_SIZE)
    steps = iter(cascade(lrn, crops, x_0, 3))
    for t in range(3):
        a, d = lrn(extract_patches(pad_crops(crops), x), d)
        x = transition(x, a)
        step = next(steps)
        torch.testing.assert_close(step.landmarks, x, rtol=0, atol=0)
        torch.testing.assert_close(step.actions, a, rtol=0, atol=0)
        assert step.iteration == t + 1
    assert next(steps, None) is None


def test_gradients_flow_through_increments_and_history() -> None:
    weight = torch.ones((), requires_grad=True)

    def regressor(patches: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        # a_0 = w, a_1 = w + d_1 = w + 3 w
        return (weight + d[:, :1]).expand(-1, 136), 3 * weight + torch.zeros_like(d)

    steps = list(cascade(regressor, labelled_crops(2), starts(2), 2))
    (gradient,) = torch.autograd.grad(steps[-1].landmarks.sum(), weight)
    assert gradient.item() == 2 * 136 * (1 + 1 + 3)


def test_gradients_reach_every_weight_of_lrn() -> None:
    lrn = micro_lrn().train()
    *_, last = cascade(lrn, images(2, 256, 256, 3), starts(2), 2)
    (last.landmarks**2).mean().backward()
    for name, parameter in lrn.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_mean_start_is_the_same_for_every_crop() -> None:
    shape = starts(1)[0]
    start = MeanStart(shape)
    assert start.num_landmarks == 68
    assert torch.equal(start(labelled_crops(3)), shape.expand(3, -1, -1))
