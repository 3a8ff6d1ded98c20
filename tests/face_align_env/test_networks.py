"""GEN, LRN, their weights on disk, and the cascade."""

from __future__ import annotations

import stat
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from face_align_env.landmarks import to_19_points
from face_align_env.mdp import HISTORY_SIZE, transition
from face_align_env.networks import gen as gen_network
from face_align_env.networks import lrn as lrn_network
from face_align_env.networks import weights
from face_align_env.networks.cascade import MeanStart, cascade
from face_align_env.networks.convolution import PatchConv2d, PixelConv2d
from face_align_env.networks.gen import GEN, GENConfig, reduce_crops
from face_align_env.networks.lrn import LRN, LRNConfig, LRNTrunk
from face_align_env.networks.weights import WeightsError, load_weights, save_weights
from face_align_env.patches import extract_patches, pad_crops

MICRO_GEN = GENConfig(input_size=16, width=4, hidden=16)
MICRO_LRN = LRNConfig(encoder=((4, 10, 10, 1),), bottleneck=4)


def micro_gen(**options: object) -> GEN:
    torch.manual_seed(0)
    shape = np.random.default_rng(0).uniform(60, 200, (68, 2))
    return GEN(GENConfig(**{**asdict(MICRO_GEN), **options}), shape).eval()  # type: ignore[arg-type]


def micro_lrn(gain: float = 1.0) -> LRN:
    torch.manual_seed(1)
    lrn = LRN(MICRO_LRN)
    with torch.no_grad():
        lrn.action.weight.mul_(gain)
    return lrn.eval()


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def history(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, HISTORY_SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def num_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# -- GEN ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_landmarks", [68, 29, 19])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_gen_gives_a_shape_for_each_crop(num_landmarks: int, batch_norm: bool) -> None:
    config = GENConfig(num_landmarks, input_size=16, width=4, hidden=16, batch_norm=batch_norm, dropout=0.5)
    shapes = GEN(config, np.full((num_landmarks, 2), 100.0)).eval()(images(3, 256, 256, 3))
    assert shapes.shape == (3, num_landmarks, 2)
    assert shapes.dtype == torch.float32
    assert (shapes - 100).abs().max() < 100, "a fresh network predicts about the mean shape"
    assert shapes[0].ne(shapes[1]).any(), "the prediction depends on the image"


def test_gen_with_a_zero_output_layer_predicts_the_mean_shape() -> None:
    gen = micro_gen()
    nn.init.zeros_(gen.head[-1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(gen.head[-1].bias)  # type: ignore[arg-type]
    torch.testing.assert_close(gen(images(2, 256, 256, 3)), gen.mean_shape.expand(2, -1, -1), rtol=0, atol=0)


def test_gen_takes_crops_that_are_reduced_already() -> None:
    gen = micro_gen()
    blocks = images(2, 16, 16, 3)
    full = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)
    torch.testing.assert_close(gen(full), gen(blocks))


@pytest.mark.parametrize("size", [16, 48, 64, 112, 256])
def test_reduced_crops_are_means_of_pixels(size: int) -> None:
    crops = images(2, 256, 256, 3)
    crops[1] = 255  # the largest sums that there are
    expected = nn.functional.adaptive_avg_pool2d(crops.permute(0, 3, 1, 2).float(), size)
    for given in (crops, crops.transpose(1, 2).contiguous().transpose(1, 2)):
        reduced = reduce_crops(given, size)
        torch.testing.assert_close(reduced, expected, rtol=0, atol=1e-4)
        assert reduced.dtype == torch.float32
        assert reduced.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_folding_batch_normalisation_changes_nothing(batch_norm: bool) -> None:
    gen = micro_gen(batch_norm=batch_norm, dropout=0.3).train()
    crops = images(4, 256, 256, 3)
    for layer in gen.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, -2, 2)
            nn.init.uniform_(layer.bias, -1, 1)
    gen(crops)  # the running means move
    before = {name: tensor.clone() for name, tensor in gen.state_dict().items()}
    folded = gen.folded()
    assert gen.training
    assert not folded.training
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    torch.testing.assert_close(folded(crops), gen.eval()(crops), rtol=0, atol=1e-3)
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.zero_()
    for name, tensor in gen.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} is the network's own"


def test_a_folded_network_survives_its_file(tmp_path: Path) -> None:
    folded = micro_gen(batch_norm=True).folded()
    folded.save(tmp_path / "gen.safetensors")
    crops = images(2, 256, 256, 3)
    torch.testing.assert_close(GEN.load(tmp_path / "gen.safetensors").eval()(crops), folded(crops), rtol=0, atol=0)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_gen_gives_the_19_points_of_its_68(batch_norm: bool) -> None:
    gen, crops = micro_gen(batch_norm=batch_norm), images(3, 256, 256, 3)
    other = gen.for_landmarks(19)
    assert other.config.num_landmarks == 19
    assert not other.training
    np.testing.assert_allclose(
        other(crops).detach().numpy(), to_19_points(gen(crops).detach().numpy()), rtol=0, atol=1e-3
    )
    with pytest.raises(ValueError, match="29 landmarks cannot be had from 68"):
        gen.for_landmarks(29)


def test_gen_paper_preset_is_table_1() -> None:
    with torch.device("meta"):
        gen = GEN(gen_network.preset("paper", 68))
    convolutions = [layer for layer in gen.modules() if isinstance(layer, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [64, 64, 128, 128, 256, 256, 512, 512]
    assert {c.kernel_size for c in convolutions} == {(3, 3)}
    pools = [layer for layer in gen.modules() if isinstance(layer, nn.MaxPool2d)]
    assert [pool.kernel_size for pool in pools] == [2, 2, 2, 2]
    assert [f.out_features for f in gen.modules() if isinstance(f, nn.Linear)] == [512, 2 * 68]
    # a ReLU after each layer but pooling and output
    assert sum(isinstance(layer, nn.ReLU) for layer in gen.modules()) == 8 + 1
    order = [type(layer) for layer in gen.features]
    assert order == 4 * [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.ReLU, nn.MaxPool2d]
    # by hand: convolutions 4,685,376; FC 512 x 16 x 16 x 512 + 512; FC 512 x 136 + 136
    assert num_parameters(gen) == 4_685_376 + 67_109_376 + 69_768


@pytest.mark.parametrize(
    ("network", "name", "millions"),
    [("gen", "compact", 2.3), ("lrn", "compact", 1.5), ("lrn", "paper", 1.5), ("lrn", "mdm", 40.5)],
)
def test_presets_have_the_size_that_is_promised(network: str, name: str, millions: float) -> None:
    with torch.device("meta"):
        built = GEN(gen_network.preset(name, 68)) if network == "gen" else LRN(lrn_network.preset(name, 68))
    assert num_parameters(built) / 1e6 == pytest.approx(millions, rel=0.05)


def test_tiny_presets_are_smaller_than_compact_ones() -> None:
    with torch.device("meta"):
        for network, module in ((GEN, gen_network), (LRN, lrn_network)):
            tiny, compact = (network(module.preset(name, 68)) for name in ("tiny", "compact"))  # type: ignore[operator]
            assert num_parameters(tiny) < num_parameters(compact)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GENConfig(input_size=100), "multiple of 16"),
        (lambda: GENConfig(input_size=512), "multiple of 16 up to 256"),
        (lambda: GENConfig(num_landmarks=5), "5 points"),
        (lambda: LRNConfig(num_landmarks=5), "5 points"),
        (lambda: gen_network.preset("huge", 68), "Unknown GEN preset 'huge'.*compact"),
        (lambda: lrn_network.preset("huge", 68), "Unknown LRN preset 'huge'.*mdm"),
    ],
)
def test_a_network_that_cannot_be_is_an_error(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


# -- LRN ---------------------------------------------------------------------------------------------------------------


def test_lrn_of_68_points_starts_one_of_19() -> None:
    lrn, chin, before = micro_lrn(gain=30), 8, history(2)
    patches = torch.zeros(2, 68, 30, 30, 3, dtype=torch.uint8)
    patches[:, chin] = images(2, 30, 30, 3)  # alone, so that no other point's patch is missed
    with torch.no_grad():  # an encoder that gives nothing for a black patch
        for layer in lrn.trunk.encoder:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight.abs_()
                nn.init.zeros_(layer.bias)
    other = lrn.for_landmarks(19)
    fewer = torch.zeros(2, 19, 30, 30, 3, dtype=torch.uint8)
    fewer[:, 18] = patches[:, chin]
    torch.testing.assert_close(other.trunk(fewer, before), lrn.trunk(patches, before))
    moves = lrn.trunk(patches, before) @ lrn.action.weight.T
    means = to_19_points(moves.detach().view(2, 68, 2).numpy())
    fewer_moves = other.trunk(fewer, before) @ other.action.weight.T
    np.testing.assert_allclose(fewer_moves.detach().view(2, 19, 2).numpy(), means, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="68 landmarks cannot be had from 19"):
        other.for_landmarks(68)


@pytest.mark.parametrize("gain", [1.0, 1e4], ids=["fresh", "saturated"])
def test_lrn_keeps_its_bounds(gain: float) -> None:
    lrn = micro_lrn(gain)
    with torch.no_grad():
        lrn.trunk.recurrent.weight.mul_(gain)
        a, d = lrn(images(4, 68, 30, 30, 3), history(4))
    assert a.shape == (4, 136)
    assert d.shape == (4, HISTORY_SIZE)
    limit = lrn.config.action_limit
    assert a.abs().max() <= limit
    assert d.abs().max() <= 1
    if gain > 1:
        assert a.abs().max() > 0.99 * limit, "the bound can be reached"
        assert d.abs().max() > 0.99
    else:
        assert 0 < a.abs().max() < 0.2 * limit, "first increments are small"


def test_lrn_reads_patches_and_history() -> None:
    lrn = micro_lrn()
    patches, d = images(2, 68, 30, 30, 3), history(2)
    a, following = lrn(patches, d)
    changed = patches.clone()
    changed[0, 5] = 255 - changed[0, 5]
    other, other_following = lrn(changed, d)
    assert other[0].ne(a[0]).any(), "one patch is enough to change the action"
    assert other_following[0].ne(following[0]).any()
    torch.testing.assert_close(other[1], a[1])
    assert lrn(patches, -d)[0].ne(a).float().mean() > 0.9


def test_networks_whose_weights_are_bfloat16_speak_float32() -> None:
    gen, lrn = micro_gen(), micro_lrn()
    crops, patches, d = images(2, 256, 256, 3), images(2, 68, 30, 30, 3), history(2)
    expected = gen(crops), *lrn(patches, d)
    for network in (gen, lrn):
        for parameter in network.parameters():
            parameter.data = parameter.data.bfloat16()
    for result, reference in zip((gen(crops), *lrn(patches, d)), expected, strict=True):
        assert result.dtype == torch.float32
        assert result.ne(reference).any()
        torch.testing.assert_close(result, reference, rtol=0.02, atol=0.05)


def test_lrn_sees_all_landmarks_through_the_same_encoder() -> None:
    trunk = LRNTrunk(MICRO_LRN)
    patches = images(1, 68, 30, 30, 3)
    codes = trunk.encode(patches).view(68, -1)
    order = torch.randperm(68)
    torch.testing.assert_close(trunk.encode(patches[:, order]).view(68, -1), codes[order])


@pytest.mark.parametrize("preset", ["tiny", "compact", "paper", "mdm"])
def test_presets_of_lrn_fit_the_patches(preset: str) -> None:
    config = lrn_network.preset(preset, 19)
    a, d = LRN(config)(images(1, 19, 30, 30, 3), torch.zeros(1, HISTORY_SIZE))
    assert (a.shape, d.shape) == ((1, 38), (1, HISTORY_SIZE))


def test_pixel_convolution_reads_bytes_and_floats_alike() -> None:
    torch.manual_seed(0)
    convolution = PixelConv2d(3, 5, 4, 2)
    pixels = images(3, 3, 12, 12)
    pixels[0, 0, 0] = torch.tensor([0, 1, 127, 128, 129, 255] * 2, dtype=torch.uint8)
    result = convolution(pixels)
    torch.testing.assert_close(result, convolution(pixels.float()), rtol=0, atol=0)
    normalised = (pixels.float() - 128) / 64
    expected = nn.functional.conv2d(normalised, convolution.weight, convolution.bias, stride=2)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def _gradients(
    layer: nn.Conv2d, x: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Output, and gradients of input, weight and bias, where the network's precision is ``dtype``."""
    layer.zero_grad()
    x = x.clone().requires_grad_(x.is_floating_point())
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        y: Tensor = layer(x)
    assert y.dtype == dtype
    y.backward(torch.linspace(-1, 1, y.numel()).view_as(y).to(dtype))
    assert layer.weight.grad is not None
    assert layer.bias is not None
    assert layer.bias.grad is not None
    return y.detach().float(), x.grad, layer.weight.grad, layer.bias.grad


@pytest.mark.parametrize(
    ("layer", "side"),
    [(PixelConv2d(3, 8, 6, 4), 30), (PatchConv2d(8, 4, 3, 2), 5), (PatchConv2d(8, 4, 3, 1), 7)],
    ids=["over bytes", "with a stride", "without"],
)
def test_convolutions_have_the_same_gradients_in_bfloat16(layer: PatchConv2d, side: int) -> None:
    torch.manual_seed(0)
    layer.reset_parameters()
    pixels = isinstance(layer, PixelConv2d)
    x = images(40, 3, side, side) if pixels else torch.randn(40, 8, side, side)
    x = x.contiguous(memory_format=torch.channels_last)
    for half, full in zip(_gradients(layer, x, torch.bfloat16), _gradients(layer, x, torch.float32), strict=True):
        assert (half is None) == (full is None)
        if half is not None and full is not None:
            assert (half - full).norm() < 0.02 * full.norm()


def test_strided_convolutions_train_as_matrix_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 on a CPU; others, and all that do not learn, are convolutions."""
    called: list[int] = []
    convolve = nn.functional.conv2d
    monkeypatch.setattr(
        nn.functional, "conv2d", lambda x, w, b, stride: called.append(int(stride)) or convolve(x, w, b, stride)
    )
    layers = PixelConv2d(3, 8, 6, 4), nn.ReLU(), PatchConv2d(8, 4, 3, 1), PatchConv2d(4, 4, 3, 2)
    encoder = nn.Sequential(*layers)
    pixels = images(2, 3, 30, 30).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        encoder(pixels).sum().backward()
        assert called == [1]
        with torch.no_grad():
            encoder(pixels)
        assert called == [1, 4, 1, 2]
    called.clear()
    encoder(pixels)
    assert called == [4, 1, 2]


# -- weights on disk ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_gen_survives_its_file(tmp_path: Path, half: bool) -> None:
    gen = micro_gen(batch_norm=True, dropout=0.3)
    gen.train()(images(4, 16, 16, 3))  # the running means move
    path = tmp_path / "new" / "gen.safetensors"
    gen.eval().save(path, {"epochs": 3}, half=half)
    again = GEN.load(path).eval()
    assert again.config == gen.config
    crops = images(2, 256, 256, 3)
    tolerance = {"rtol": 2e-3, "atol": 0.2} if half else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(again(crops), gen(crops), **tolerance)
    assert next(again.parameters()).dtype == torch.float32
    assert load_weights(path, "gen")[2] == {"epochs": 3}


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_lrn_survives_its_file(tmp_path: Path, half: bool) -> None:
    lrn = micro_lrn()
    path = tmp_path / "lrn.safetensors"
    lrn.save(path, half=half)
    again = LRN.load(path)
    assert again.config == lrn.config
    patches, d = images(2, 68, 30, 30, 3), history(2)
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if half else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(again(patches, d), lrn(patches, d), **tolerance)
    assert path.stat().st_size == pytest.approx(num_parameters(lrn) * (2 if half else 4), rel=0.02)


def test_the_same_weights_are_the_same_file(tmp_path: Path) -> None:
    lrn = micro_lrn()
    for i in range(6):
        lrn.save(tmp_path / f"{i}.safetensors", {"seed": 0})
    assert len({(tmp_path / f"{i}.safetensors").read_bytes() for i in range(6)}) == 1


def test_weights_can_be_read_by_everyone_who_may_read_the_folder(tmp_path: Path) -> None:
    micro_lrn().save(tmp_path / "lrn.safetensors")
    (tmp_path / "ordinary").touch()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_missing_weights_say_how_to_train_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="face-align pretrain lrn"):
        LRN.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_damaged_weights_are_an_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "gen.safetensors"
    micro_gen().save(path)
    data = path.read_bytes()
    path.write_bytes({"truncated": data[:-100], "garbage": b"\xff" * 200, "empty": b""}[damage])
    with pytest.raises(WeightsError, match=r"gen.safetensors' is damaged"):
        GEN.load(path)


def test_weights_of_the_other_network_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "gen.safetensors"
    micro_gen().save(path)
    with pytest.raises(WeightsError, match="holds gen, not weights of the network 'lrn'"):
        LRN.load(path)


def test_tensors_of_somebody_else_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match="holds something else"):
        LRN.load(path)


def test_tensors_of_another_scheme_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "lrn.safetensors"
    save_weights(path, "lrn", {**asdict(MICRO_LRN), "num_landmarks": 29}, micro_lrn().state_dict())
    with pytest.raises(WeightsError, match="does not fit its own configuration"):
        LRN.load(path)


def test_an_interrupted_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lrn.safetensors"
    micro_lrn().save(path)
    before = path.read_bytes()

    def half_of_it(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(weights.Path, "write_bytes", half_of_it)
    with pytest.raises(KeyboardInterrupt):
        micro_lrn(2.0).save(path)
    assert path.read_bytes() == before
    monkeypatch.undo()
    micro_lrn(2.0).save(path)
    assert path.read_bytes() != before


# -- the cascade -------------------------------------------------------------------------------------------------------


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
    steps = list(cascade(regressor, labelled_crops(4), starts(4), max_iterations=4, alpha_2=3.0))
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
    assert len(list(cascade(regressor, labelled_crops(2), starts(2), max_iterations=8, alpha_2=3.0))) == 2


def test_faces_that_leave_do_not_change_the_others() -> None:
    crops, x_0 = labelled_crops(4), starts(4)
    together = {}
    for step in cascade(Scripted(SCRIPT), crops, x_0, 4, alpha_2=3.0):
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
    list(cascade(regressor, labelled_crops(4), starts(4), torch.tensor([4, 2, 3, 4]), alpha_2=3.0))
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
