"""Eq. 1 and its sum over a cascade."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from face_align_env.mdp import HISTORY_SIZE, nme, transition
from face_align_env.networks.cascade import MeanStart
from face_align_env.networks.gen import GEN
from face_align_env.networks.lrn import LRN
from face_align_env.patches import extract_patches, pad_crops
from face_align_env.pretrain.faces import Batch, DeviceFaces
from face_align_env.pretrain.objectives import (
    CascadeObjective,
    GENObjective,
    SampledEncoder,
    StartJitter,
    VisitedStates,
)

Faces = Callable[..., DeviceFaces]
NewGEN = Callable[..., GEN]
NewLRN = Callable[..., LRN]


def mean_start(faces: DeviceFaces) -> MeanStart:
    return MeanStart(torch.from_numpy(faces.prepared.mean_shape()))


def error(x: Tensor, batch: Batch) -> float:
    """Eq. 2 in NumPy, mean over faces."""
    return float(nme(x.detach().numpy(), batch.landmarks.numpy(), batch.d.numpy(), batch.counted.numpy()).mean())


def test_loss_of_gen_is_eq_1(device_faces: Faces, new_gen: NewGEN) -> None:
    faces = device_faces(size=16)
    batch = faces.batch(np.arange(6))
    gen = new_gen(faces)
    loss, reported = GENObjective(gen)(batch)
    assert loss.item() == pytest.approx(error(gen(batch.crops), batch), rel=1e-5)
    assert reported.item() == loss.item()
    assert not reported.requires_grad


def test_landmarks_that_are_not_annotated_have_no_part_in_the_loss(device_faces: Faces, new_gen: NewGEN) -> None:
    faces = device_faces(size=16)
    batch = faces.batch(np.arange(6))
    objective = GENObjective(new_gen(faces))
    batch.counted = batch.counted.clone()
    batch.counted[:, 10:20] = False
    before = objective(batch)[0].item()
    batch.landmarks = batch.landmarks.clone()
    batch.landmarks[:, 10:20] += 50
    assert objective(batch)[0].item() == before
    batch.landmarks[:, 20] += 50
    assert objective(batch)[0].item() > before


def test_loss_of_a_cascade_is_the_sum_of_its_errors(device_faces: Faces, new_lrn: NewLRN) -> None:
    faces = device_faces()
    batch = faces.batch(np.arange(6))
    objective = CascadeObjective(new_lrn(), mean_start(faces), iterations=3)
    shapes = objective.shapes(batch.crops, objective.start(batch.crops))
    assert len(shapes) == 3
    errors = [error(x, batch) for x in shapes]
    assert len(set(errors)) == 3
    loss, reported = objective(batch)
    assert loss.item() == pytest.approx(sum(errors), rel=1e-5)
    assert reported.item() == pytest.approx(errors[-1], rel=1e-5)
    torch.testing.assert_close(objective.predict(batch.crops), shapes[-1])


def test_the_start_is_neither_trained_nor_stored(device_faces: Faces, new_gen: NewGEN, new_lrn: NewLRN) -> None:
    faces = device_faces(num_faces=2)
    gen = new_gen(faces, batch_norm=True, dropout=0.5)
    objective = CascadeObjective(new_lrn(), gen, iterations=1)
    objective.train()
    batch = faces.batch(np.arange(2))
    torch.testing.assert_close(objective.start(batch.crops), gen.eval()(batch.crops), msg="evaluation mode, always")
    loss, _ = objective(batch)
    loss.backward()
    assert all(p.grad is None for p in gen.parameters())
    assert all(p.grad is not None for p in objective.network.parameters())
    assert set(objective.state_dict()) == {f"network.{name}" for name in objective.network.state_dict()}


def test_jitter_moves_starts_in_training_only(device_faces: Faces, new_lrn: NewLRN) -> None:
    faces = device_faces(num_faces=2)
    batch = faces.batch(np.arange(2))
    objective = CascadeObjective(new_lrn(), mean_start(faces), 1, StartJitter(shift=0.1))

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return objective(batch)[0].item()

    assert loss(0) == loss(0) != loss(1)
    objective.eval()
    assert loss(0) == loss(1)


@pytest.mark.parametrize(
    ("jitter", "moved"),
    [
        (StartJitter(0, 0, 0), ()),
        (StartJitter(0.1, 0, 0), ("centre",)),
        (StartJitter(0, 0.1, 0), ("size",)),
        (StartJitter(0, 0, 0.1), ("angle",)),
    ],
    ids=["none", "shift", "scale", "rotation"],
)
def test_jitter_is_a_similarity(jitter: StartJitter, moved: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    x = 100 + 40 * torch.rand(2000, 3, 2)
    y = jitter(x)

    def as_complex(shape: Tensor) -> Any:
        return (shape[..., 0] + 1j * shape[..., 1]).to(torch.complex128)

    z, w = as_complex(x), as_complex(y)
    centre = w.mean(1) - z.mean(1)
    factor = (w - w.mean(1, keepdim=True)) / (z - z.mean(1, keepdim=True))
    assert (factor - factor[:, :1]).abs().max() < 1e-2, "all points turn and grow alike"
    spread = {
        "centre": centre.real.std().item() / 256,
        "size": factor[:, 0].abs().log().std().item(),
        "angle": factor[:, 0].angle().std().item(),
    }
    for name, value in spread.items():
        assert value == pytest.approx(0.1, rel=0.1) if name in moved else value < 1e-4, name


def test_visited_states_are_those_of_the_cascade(device_faces: Faces, new_lrn: NewLRN) -> None:
    faces, lrn = device_faces(), new_lrn()
    crops = faces.batch(np.arange(6)).crops
    objective = CascadeObjective(lrn, mean_start(faces), 2)
    lengths = torch.tensor([0, 3, 1, 0, 5, 3])
    x, history = objective.visit(crops, objective.start(crops), lengths)
    padded = pad_crops(crops)
    for face, length in enumerate(lengths.tolist()):
        shape, d = objective.start(crops[face : face + 1]), torch.zeros(1, HISTORY_SIZE)
        for _ in range(length):
            a, d = lrn(extract_patches(padded, shape, faces=torch.tensor([face])), d)
            shape = transition(shape, a)
        torch.testing.assert_close(x[face], shape[0], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(history[face], d[0], rtol=1e-4, atol=1e-4)
    assert not x.requires_grad
    assert not history.requires_grad


def test_the_trained_iterations_begin_at_visited_states(
    device_faces: Faces, new_lrn: NewLRN, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = device_faces()
    batch = faces.batch(np.arange(6))
    objective = CascadeObjective(new_lrn(), mean_start(faces), 2, visited=VisitedStates(depth=4))
    lengths = torch.tensor([0, 4, 1, 0, 2, 2])
    monkeypatch.setattr(VisitedStates, "lengths", lambda self, n: lengths)
    shapes = objective.shapes(batch.crops, *objective.visit(batch.crops, objective.start(batch.crops), lengths))
    loss, reported = objective(batch)
    assert loss.item() == pytest.approx(sum(error(x, batch) for x in shapes), rel=1e-5)
    assert reported.item() == pytest.approx(error(shapes[-1], batch), rel=1e-5)
    objective.eval()
    shapes = objective.shapes(batch.crops, objective.start(batch.crops))
    assert objective(batch)[0].item() == pytest.approx(sum(error(x, batch) for x in shapes), rel=1e-5)


def test_how_far_faces_are_rolled_forward() -> None:
    torch.manual_seed(0)
    lengths = VisitedStates(share=0.6, depth=4).lengths(50_000)
    shares = (lengths[:, None] == torch.arange(6)).float().mean(0)
    np.testing.assert_allclose(shares.numpy(), [0.4, 0.15, 0.15, 0.15, 0.15, 0], atol=0.01)
    torch.manual_seed(0)
    assert torch.equal(VisitedStates(0.6, 4).lengths(50_000), lengths), "a function of the seed"
    assert not VisitedStates(share=0).lengths(100).any()


@pytest.mark.parametrize("change", [{"share": 1.5}, {"share": -0.1}, {"depth": 0}, {"depth": 2.5}], ids=str)
def test_states_that_cannot_be_visited_are_an_error(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be"):
        VisitedStates(**change)


def patches_and_history(num_faces: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randint(0, 256, (num_faces, 68, 30, 30, 3), dtype=torch.uint8), torch.rand(num_faces, HISTORY_SIZE)


def gradients(lrn: LRN, regressor: Any, patches: Tensor, history: Tensor) -> dict[str, Tensor]:
    lrn.zero_grad()
    actions, d = regressor(patches, history)
    (actions.square().mean() + d.square().mean()).backward()
    return {name: p.grad.clone() for name, p in lrn.named_parameters() if p.grad is not None}


def test_the_encoder_learns_from_a_sample_what_it_learns_from_all(
    new_lrn: NewLRN, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On average: four samples that have all patches between them have the gradient of all patches as their mean."""
    lrn, (patches, history) = new_lrn(gain=20), patches_and_history(5)
    exact = gradients(lrn, lrn, patches, history)
    quarter = torch.stack([torch.randperm(68) for _ in range(5)])  # each face's own
    samples = []
    for part in range(4):
        drawn = ((quarter - 17 * part) % 68).float() / 68
        monkeypatch.setattr(torch, "rand", lambda *size, drawn=drawn, **keywords: drawn)
        samples.append(gradients(lrn, SampledEncoder(lrn, 0.25, slice(None), 5), patches, history))
    for name, gradient in exact.items():
        mean = torch.stack([sample[name] for sample in samples]).mean(0)
        torch.testing.assert_close(mean, gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()), msg=name)
        alike = all(torch.allclose(sample[name], gradient, rtol=1e-3) for sample in samples)
        assert alike == (not name.startswith("trunk.encoder")), f"{name}: all but the encoder's are exact"


def test_all_patches_count_in_what_is_found(new_lrn: NewLRN) -> None:
    lrn, (patches, history) = new_lrn(gain=20), patches_and_history(3)
    for found, expected in zip(
        SampledEncoder(lrn, 0.1, slice(None), 3)(patches, history), lrn(patches, history), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_as_many_patches_of_each_face_teach_the_encoder(new_lrn: NewLRN, monkeypatch: pytest.MonkeyPatch) -> None:
    lrn, (patches, history) = new_lrn(), patches_and_history(3)
    encode, seen = lrn.trunk.encode, []

    def watched(part: Tensor) -> Tensor:
        seen.append((torch.is_grad_enabled(), part))
        return encode(part)

    monkeypatch.setattr(lrn.trunk, "encode", watched)
    SampledEncoder(lrn, 0.25, slice(None), 3)(patches, history)
    (learns, taught), (others_learn, rest) = seen
    assert (learns, others_learn) == (True, False)
    assert (len(taught), len(rest)) == (3 * 17, 3 * 51)
    for face in range(3):
        own = {patch.numpy().tobytes() for patch in patches[face]}
        assert sum(patch[0].numpy().tobytes() in own for patch in taught) == 17


def test_parts_of_a_minibatch_draw_what_the_whole_draws(new_lrn: NewLRN) -> None:
    lrn, (patches, history) = new_lrn(gain=20), patches_and_history(6)

    def of(part: slice) -> dict[str, Tensor]:
        torch.manual_seed(7)
        return gradients(lrn, SampledEncoder(lrn, 0.25, part, 6), patches[part], history[part])

    whole, first, second = of(slice(0, 6)), of(slice(0, 3)), of(slice(3, 6))
    for name, gradient in whole.items():
        mean = (first[name] + second[name]) / 2
        torch.testing.assert_close(mean, gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()), msg=name)


def test_patches_are_sampled_in_training_only(
    device_faces: Faces, new_lrn: NewLRN, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = device_faces()
    batch = faces.batch(np.arange(4))
    made: list[float] = []
    call = SampledEncoder.__call__

    def watched(self: SampledEncoder, patches: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        made.append(self._share)
        return call(self, patches, history)

    monkeypatch.setattr(SampledEncoder, "__call__", watched)
    sampled, whole = (CascadeObjective(new_lrn(), mean_start(faces), 2, encoder_share=share) for share in (0.5, 1.0))
    torch.testing.assert_close(sampled(batch)[0], whole(batch)[0])
    assert made == [0.5, 0.5]
    sampled.eval()
    sampled(batch)
    assert made == [0.5, 0.5]


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_that_is_none_is_an_error(device_faces: Faces, new_lrn: NewLRN, share: float) -> None:
    with pytest.raises(ValueError, match="encoder_share must be above 0 and at most 1"):
        CascadeObjective(new_lrn(), mean_start(device_faces(num_faces=1)), 1, encoder_share=share)


def test_a_cascade_needs_an_iteration(device_faces: Faces, new_lrn: NewLRN) -> None:
    with pytest.raises(ValueError, match="at least one iteration, got 0"):
        CascadeObjective(new_lrn(), mean_start(device_faces(num_faces=1)), 0)
