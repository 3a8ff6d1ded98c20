"""Released weights: ``weights/NAME.safetensors`` holds a GEN and DCRN's LRN, ``weights/NAME.json`` is their card.

The card says what the networks have learnt from, how, how well they do, what they may be used for, and the hash of the
file. Everything that loads a release checks the file against its card first.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args, get_origin, get_type_hints

from face_align_env.landmarks import get_scheme

if TYPE_CHECKING:
    import torch

    from face_align_env.networks.confidence import ErrorHead
    from face_align_env.networks.gain import GainHead
    from face_align_env.networks.gen import GEN
    from face_align_env.networks.lrn import LRN

FOLDER = Path(__file__).parent / "weights"
"""Where the releases of this package are."""

MAX_BYTES = 20_000_000
"""No released file is larger."""


@dataclass(frozen=True)
class TrainingData:
    """What a release has learnt from.

    :param datasets: number of training faces of each dataset
    :param boxes: where the faces' boxes came from
    :param missing: what the published protocol has and the training set lacked, a line each
    """

    datasets: dict[str, int]
    boxes: str
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.datasets or min(self.datasets.values()) < 1:
            raise ValueError(f"datasets must name at least one dataset with its number of faces, got {self.datasets}")


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters of the two networks."""

    gen: int
    lrn: int

    def __post_init__(self) -> None:
        if self.gen < 1 or self.lrn < 1:
            raise ValueError(f"numbers of parameters must be positive, got {self.gen} and {self.lrn}")


@dataclass(frozen=True)
class Metric:
    """How well a method did on the faces of a split.

    :param dataset: name of the dataset
    :param split: name of the split
    :param faces: their number
    :param method: ``"GEN"``, ``"DCRN"``
    :param nme: mean NME (Eq. 2) under the dataset's normaliser, percent
    :param nme_low: lower end of its 95 % bootstrap interval over faces, percent
    :param nme_high: upper end, percent
    :param failure_rate: faces with an NME above 0.1, percent
    :param iterations: mean number of iterations of LRN
    """

    dataset: str
    split: str
    faces: int
    method: str
    nme: float
    nme_low: float
    nme_high: float
    failure_rate: float
    iterations: float

    def __post_init__(self) -> None:
        if self.faces < 1 or not 0 <= self.nme_low <= self.nme <= self.nme_high:
            raise ValueError(f"an NME of {self.nme} in {self.nme_low} .. {self.nme_high} on {self.faces} faces")
        if not 0 <= self.failure_rate <= 100 or self.iterations < 0:
            raise ValueError(f"a failure rate of {self.failure_rate} % and {self.iterations} iterations")


@dataclass(frozen=True)
class Card:
    """What is known of a release; its JSON file has these fields.

    :param name: of the release
    :param landmarks: K
    :param data: what it has learnt from
    :param recipe: how it was trained, in words
    :param command: what trained it
    :param preset: of the networks and the recipe
    :param parameters: numbers of parameters
    :param seed: of the training
    :param alpha_2: Eq. 3's bound on the last increment that it was trained with, pixels of the crop
    :param margin: of the crop around the box, a fraction of the box's longer side
    :param action_limit: LRN's largest increment of a coordinate, pixels of the crop
    :param metrics: what was measured, before the parameters were rounded to float16
    :param license: of the weights, and of what they have learnt from
    :param intended_use: what they are meant for
    :param not_trained_on: which faces they have not seen
    :param sha256: of the file with the weights, hexadecimal
    :param created_with: version of this project
    """

    name: str
    landmarks: int
    data: TrainingData
    recipe: str
    command: str
    preset: str
    parameters: Parameters
    seed: int
    alpha_2: float
    margin: float
    action_limit: float
    metrics: tuple[Metric, ...]
    license: str
    intended_use: str
    not_trained_on: str
    sha256: str
    created_with: str

    def __post_init__(self) -> None:
        get_scheme(self.landmarks)
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256 must be 64 hexadecimal digits, got '{self.sha256}'")
        if self.alpha_2 <= 0 or self.action_limit <= 0 or self.margin <= -0.5:
            raise ValueError(
                f"alpha_2 and action_limit must be positive and margin above -0.5, got {self.alpha_2}, "
                f"{self.action_limit} and {self.margin}"
            )
        empty = [field.name for field in fields(self) if getattr(self, field.name) == ""]
        if empty:
            raise ValueError(f"nothing is said under {', '.join(empty)}")

    @classmethod
    def from_document(cls, document: Any) -> Card:
        """The card in a JSON document.

        :raises ValueError: a field is missing, unknown, of another type or makes no sense; the message names it
        """
        card: Card = _parsed(document, cls, "card")
        return card

    def document(self) -> dict[str, Any]:
        """The card as a JSON document."""
        return asdict(self)


@dataclass(frozen=True)
class Release:
    """Released weights.

    :param name: ``"300w-68"``, say
    :param path: the file with the weights of GEN and LRN
    :param card: what is known of them
    """

    name: str
    path: Path
    card: Card


def released_names(folder: str | os.PathLike[str] | None = None) -> list[str]:
    """The names of the releases, sorted.

    :param folder: where they are; None: in this package
    """
    return sorted(path.stem for path in _folder(folder).glob("*.safetensors") if not path.name.startswith("."))


def find_release(name: str, folder: str | os.PathLike[str] | None = None) -> Release:
    """A release by its name. Its weights are not read yet.

    :param name: one of :func:`released_names`
    :param folder: where the releases are; None: in this package
    :raises ValueError: there is no release of that name, or the wheel leaves out its weights; the message says which
        there are, or how to get them
    :raises WeightsError: its card is missing or cannot be used
    """
    names = released_names(folder)
    path = _folder(folder) / f"{name}.safetensors"
    if name not in names and path.with_suffix(".json").is_file():
        raise ValueError(
            f"The weights '{name}' are left out of the wheel of this package, which has their card. Copy "
            f"{path.name} from its source distribution into '{path.parent}', or train them: "
            f"{load_card(path.with_suffix('.json')).command}"
        )
    if name not in names:
        there = f"there are {', '.join(names)}" if names else "this copy of the package has none"
        raise ValueError(f"There are no released weights '{name}'; {there}. Train your own: face-align run")
    card = load_card(path.with_suffix(".json"))
    if card.name != name:
        _refuse(path.with_suffix(".json"), f"is the card of '{card.name}'")
    return Release(name, path, card)


def weights_file(source: str | os.PathLike[str]) -> Path:
    """The file of weights that a path, or the name of a release, names; there need not be one.

    :param source: a file comes before a release of the same name
    """
    path = Path(source)
    return find_release(path.name).path if os.fspath(source) in released_names() and not path.exists() else path


def load_card(path: str | os.PathLike[str]) -> Card:
    """Read a card.

    :param path: its JSON file
    :raises WeightsError: it is missing, or a field of it is missing or makes no sense
    """
    try:
        return Card.from_document(json.loads(Path(path).read_text(encoding="utf-8")))
    except FileNotFoundError:
        _refuse(path, "is missing; without their card, weights are not loaded")
    except (OSError, ValueError, RecursionError) as error:
        _refuse(path, f"is no card of released weights ({error})")


def load_gen(release: Release, device: str | torch.device = "cpu") -> GEN:
    """The GEN of a release, in evaluation mode.

    :param device: where it lives
    :raises WeightsError: the file is not the one that the card describes
    """
    from face_align_env.networks.gen import GEN

    _check_hash(release)
    gen = GEN.load(release.path, device).eval()
    _check_network(release, "GEN", gen, release.card.parameters.gen)
    return gen


def load_networks(release: Release, device: str | torch.device = "cpu") -> tuple[GEN, LRN]:
    """Both networks of a release, in evaluation mode.

    :param device: where they live
    :raises WeightsError: the file is not the one that the card describes
    """
    from face_align_env.networks.lrn import LRN

    gen = load_gen(release, device)
    lrn = LRN.load(release.path, device).eval()
    _check_network(release, "LRN", lrn, release.card.parameters.lrn)
    if lrn.config.action_limit != release.card.action_limit:
        _refuse(
            release.path,
            f"has increments of up to {lrn.config.action_limit} pixels, its card says {release.card.action_limit}",
        )
    return gen, lrn


def load_heads(release: Release, device: str | torch.device = "cpu") -> tuple[ErrorHead | None, GainHead | None]:
    """What predicts the error of a face, and what an iteration gains; None where the release has no such head.

    :param device: where they live
    :raises WeightsError: the file is not the one that the card describes
    """
    from face_align_env.networks.confidence import ErrorHead
    from face_align_env.networks.gain import GainHead
    from face_align_env.networks.weights import held_networks

    _check_hash(release)
    held = held_networks(release.path)
    return (
        ErrorHead.load(release.path, device) if "confidence" in held else None,
        GainHead.load(release.path, device) if "gain" in held else None,
    )


def load_error_head(release: Release, device: str | torch.device = "cpu") -> ErrorHead | None:
    """What predicts the error of a face: the first of :func:`load_heads`."""
    return load_heads(release, device)[0]


def load_gain_head(release: Release, device: str | torch.device = "cpu") -> GainHead | None:
    """What predicts how much an iteration gains: the second of :func:`load_heads`."""
    return load_heads(release, device)[1]


def _folder(folder: str | os.PathLike[str] | None) -> Path:
    return FOLDER if folder is None else Path(folder)


def _refuse(path: str | os.PathLike[str], reason: str) -> NoReturn:
    """:raises WeightsError: always"""
    # torch is imported only for those who load weights.
    from face_align_env.networks.weights import WeightsError

    raise WeightsError(
        f"'{os.fspath(path)}' {reason}. Install face-align-env again, or make the release anew: face-align release"
    )


def _check_hash(release: Release) -> None:
    from face_align_env.networks.weights import file_digest

    try:
        found = file_digest(release.path)
    except OSError as error:
        _refuse(release.path, f"cannot be read ({error})")
    if found != release.card.sha256:
        _refuse(
            release.path,
            f"is not the file that its card describes: it is damaged or another one (SHA-256 {found[:12]}..., the card "
            f"has {release.card.sha256[:12]}...)",
        )


def _check_network(release: Release, name: str, network: GEN | LRN, num_parameters: int) -> None:
    """That a network has the landmarks and the size on the card; its shapes fit its configuration already."""
    if network.num_landmarks != release.card.landmarks:
        _refuse(
            release.path,
            f"holds a {name} for {network.num_landmarks} landmarks, its card says {release.card.landmarks}",
        )
    found = sum(parameter.numel() for parameter in network.parameters())
    if found != num_parameters:
        _refuse(release.path, f"holds a {name} of {found:,} parameters, its card says {num_parameters:,}")


def _parsed(value: Any, kind: Any, where: str) -> Any:
    """A value of JSON as what a field's type asks for.

    :param kind: a dataclass, ``dict[str, T]``, ``tuple[T, ...]``, or a scalar type
    :param where: name of the value, for the message
    :raises ValueError: it is something else
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        missing = [field.name for field in fields(kind) if field.name not in value]
        unknown = [name for name in value if name not in hints]
        if missing:
            raise ValueError(f"missing in the {where}: {', '.join(missing)}")
        if unknown:
            raise ValueError(f"unknown in the {where}: {', '.join(unknown)}")
        parsed = {name: _parsed(each, hints[name], name) for name, each in value.items()}
        try:
            return kind(**parsed)  # type: ignore[operator]
        except ValueError as error:
            raise ValueError(f"the {where}: {error}") from error
    if origin is dict and isinstance(value, dict):
        return {name: _parsed(each, arguments[1], f"{where}.{name}") for name, each in value.items()}
    if origin is tuple and isinstance(value, list):
        return tuple(_parsed(each, arguments[0], f"{where}[{i}]") for i, each in enumerate(value))
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if kind in (int, str) and type(value) is kind:
        return value
    expected = str(kind) if origin else kind.__name__
    raise ValueError(f"the {where} must be of type {expected}, got {value!r:.60}")
