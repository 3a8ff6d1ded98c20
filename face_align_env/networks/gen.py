"""Global Estimation Network: the coarse shape x_0 from the whole crop (section 3.1, Table 1)."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from face_align_env.crops import CROP_SIZE
from face_align_env.landmarks import get_scheme, means_of_points
from face_align_env.networks.weights import output_for, rebuild, save_weights


@dataclass(frozen=True)
class GENConfig:
    """Size of the network; Table 1 is ``PRESETS["paper"]``.

    :param num_landmarks: K
    :param input_size: the 256-pixel crop is reduced to this, pixels, a multiple of 16
    :param width: channels of the first block; each of the four blocks doubles them
    :param hidden: width of the first fully-connected layer
    :param batch_norm: batch normalisation after each convolution
    :param dropout: before the first fully-connected layer
    """

    num_landmarks: int = 68
    input_size: int = 256
    width: int = 64
    hidden: int = 512
    batch_norm: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.input_size % 16 or not 16 <= self.input_size <= CROP_SIZE:
            raise ValueError(f"input_size must be a multiple of 16 up to {CROP_SIZE}, got {self.input_size}.")
        get_scheme(self.num_landmarks)


# "compact" has 2.3 M parameters and takes 0.24 GFLOP a face. What it was before, 112 pixels and width 32, has 7.6 M and
# takes 1.3 GFLOP. In FaceAligner, in float32 on two cores of an AMD EPYC (Zen 4): 4.5 ms for one face and 1.7 ms a face
# for 64 together; before, 13.4 and 11.3. NME on 300W's full set (689 faces; 2,002 to train on), after
#     face-align pretrain gen --dataset 300w --preset compact --precision bf16-mixed --device cpu --epochs 5
# with minibatches of 64 instead of the recipe's 128: 8.05 %, before 8.63 %. 20 epochs, which take as long as 5 took
# before, reach 5.81 %. Trained for long on much data, the larger one may be the better one: not measured.
PRESETS = {
    "paper": GENConfig(),
    "compact": GENConfig(input_size=64, width=24, batch_norm=True, dropout=0.2),
    # Small and coarse: on a CPU the cascade is where time is well spent.
    "tiny": GENConfig(input_size=48, width=8, hidden=128, batch_norm=True, dropout=0.1),
}


def preset(name: str, num_landmarks: int) -> GENConfig:
    """A preset for K landmarks.

    :raises ValueError: when there is no preset of that name
    """
    if name not in PRESETS:
        raise ValueError(f"Unknown GEN preset '{name}'; there are {', '.join(PRESETS)}.")
    return replace(PRESETS[name], num_landmarks=num_landmarks)


def reduce_crops(crops: Tensor, size: int) -> Tensor:
    """Means over the pixels under each new one.

    :param crops: (N, S, S, 3) uint8
    :param size: side of the result, pixels
    :return: (N, 3, size, size) float32, in channels-last memory
    """
    n, side = crops.shape[:2]
    crops = crops.contiguous()
    if side % size:
        return nn.functional.adaptive_avg_pool2d(crops.permute(0, 3, 1, 2).float(), size)
    # Bytes are summed before anything is converted: on a CPU, a full-size image in floating point costs several times
    # the rest of the reduction. The sums are exact, so the means are those of adaptive_avg_pool2d to the bit.
    factor = side // size
    rows = crops.view(n, size, factor, side * 3)
    sums = rows[:, :, 0].to(torch.int16)
    for i in range(1, factor):
        sums += rows[:, :, i]
    columns = sums.view(n, size, size, factor, 3)
    means = columns[:, :, :, 0].float()
    for i in range(1, factor):
        means += columns[:, :, :, i]
    return (means / factor**2).permute(0, 3, 1, 2)


def network_input(crops: Tensor, size: int) -> Tensor:
    """What GEN sees of crops: reduced, and with pixels of about unit size.

    :param crops: (N, S, S, 3) uint8
    :param size: side of the result, pixels
    :return: (N, 3, size, size) float32, in channels-last memory
    """
    return (reduce_crops(crops, size) - 127.5) / 64


class GEN(nn.Module):
    """Table 1: four blocks of two 3x3 convolutions and 2x2 max-pooling, then two fully-connected layers.

    ReLU follows every layer but the pooling and the output. The output is an offset from the training set's
    mean shape, in eighths of the crop's side, so that a network fresh from initialisation predicts about the
    mean shape.

    :param config: sizes
    :param mean_shape: (K, 2) in crop pixels; None: zeros, to be filled by ``load_state_dict``
    """

    mean_shape: Tensor

    def __init__(self, config: GENConfig, mean_shape: Any = None) -> None:
        super().__init__()
        self.config = config
        self.num_landmarks = config.num_landmarks
        layers: list[nn.Module] = []
        channels = 3
        for block in range(4):
            for _ in range(2):
                out = config.width * 2**block
                layers.append(nn.Conv2d(channels, out, 3, padding=1, bias=not config.batch_norm))
                layers += [nn.BatchNorm2d(out)] if config.batch_norm else []
                layers.append(nn.ReLU(inplace=True))
                channels = out
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(config.dropout),
            nn.Linear(channels * (config.input_size // 16) ** 2, config.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden, 2 * config.num_landmarks),
        )
        shape = torch.zeros(config.num_landmarks, 2) if mean_shape is None else torch.as_tensor(mean_shape)
        self.register_buffer("mean_shape", shape.to(torch.float32).clone())

    def forward(self, crops: Tensor) -> Tensor:
        """Coarse shapes.

        :param crops: (N, S, S, 3) uint8, RGB; S is 256, or already ``input_size``
        :return: (N, K, 2) float32, pixels of the 256-pixel crop
        """
        images = network_input(crops, self.config.input_size)
        # Weights may be kept in another type than float32; the mean shape never is.
        offsets = self.head(self.features(images.to(next(self.parameters()).dtype)))
        shapes: Tensor = self.mean_shape + (CROP_SIZE / 8) * offsets.float().unflatten(1, (self.num_landmarks, 2))
        return shapes

    @torch.no_grad()
    def folded(self) -> GEN:
        """The same function without batch normalisation: what that does in evaluation, the convolutions do.

        Shapes differ by rounding alone (some 1e-5 pixels). On many faces, the normalisation is a sixth of the time.

        :return: a network of its own on the same device, in evaluation mode; it is of no use for training
        """
        plain = GEN(replace(self.config, batch_norm=False), self.mean_shape).to(self.mean_shape.device).eval()
        plain.head.load_state_dict(self.head.state_dict())
        layers = [layer for layer in self.features if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d))]
        if not self.config.batch_norm:
            plain.features.load_state_dict(self.features.state_dict())
            return plain
        targets = [layer for layer in plain.features if isinstance(layer, nn.Conv2d)]
        for target, convolution, norm in zip(targets, layers[::2], layers[1::2], strict=True):
            assert isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            assert target.bias is not None
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            target.weight.copy_(convolution.weight * scale[:, None, None, None])
            target.bias.copy_(norm.bias - scale * norm.running_mean)
        return plain

    @torch.no_grad()
    def for_landmarks(self, num_landmarks: int) -> GEN:
        """The same function for a scheme whose points are means of this one's: its shapes are those means, to rounding.

        :param num_landmarks: K of that scheme
        :return: a network of its own on the same device
        :raises ValueError: there is no such mean: see :func:`~face_align_env.landmarks.means_of_points`
        """
        means = torch.from_numpy(means_of_points(self.num_landmarks, num_landmarks)).to(self.mean_shape.device)
        other = GEN(replace(self.config, num_landmarks=num_landmarks), means @ self.mean_shape).to(means.device)
        other.features.load_state_dict(self.features.state_dict())
        other.head.load_state_dict(output_for(means, self.head.state_dict(), str(len(self.head) - 1)))
        return other.train(self.training)

    def save(self, path: str | os.PathLike[str], notes: dict[str, Any] | None = None, half: bool = False) -> None:
        """Write the weights; see :func:`~face_align_env.networks.weights.save_weights`."""
        save_weights(path, "gen", asdict(self.config), self.state_dict(), notes, half)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> GEN:
        """Rebuild a network from its file.

        :raises FileNotFoundError, WeightsError: see :func:`~face_align_env.networks.weights.rebuild`
        """
        return rebuild(lambda config: cls(GENConfig(**config)), path, "gen", device)
