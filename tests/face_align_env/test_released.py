"""Released weights: a file, its card, and everything that can be wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from writers.release import METRIC, card_of, micro_gen, micro_lrn, write_bundle

from face_align_env import released
from face_align_env.networks.gen import GEN
from face_align_env.networks.lrn import LRN
from face_align_env.networks.weights import WeightsError, file_digest, load_weights, save_bundle, save_weights
from face_align_env.released import Card, find_release, load_card, load_gen, load_networks, released_names, weights_file

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """``write("300w-68")`` makes a release in the folder where they are looked for; keywords change its card."""
    monkeypatch.setattr(released, "FOLDER", tmp_path / "weights")

    def release(name: str = "300w-68", num_landmarks: int = 68, lrn_landmarks: int | None = None, **card: Any) -> Path:
        path = tmp_path / "weights" / f"{name}.safetensors"
        gen, lrn = micro_gen(num_landmarks), micro_lrn(lrn_landmarks or num_landmarks)
        write_bundle(path, gen, lrn)
        path.with_suffix(".json").write_text(json.dumps(card_of(path, gen, lrn, **card)))
        return path

    return release


# -- several networks in a file ----------------------------------------------------------------------------------------


def test_a_bundle_gives_each_network_as_if_it_were_alone(tmp_path: Path) -> None:
    gen, lrn = micro_gen(), micro_lrn()
    path = tmp_path / "both.safetensors"
    networks = {key: (asdict(net.config), net.state_dict()) for key, net in {"gen": gen, "lrn": lrn}.items()}
    save_bundle(path, networks, {"epochs": 3})
    for network, again in ((gen, GEN.load(path)), (lrn, LRN.load(path))):
        assert again.config == network.config
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)
    assert load_weights(path, "gen")[2] == {"epochs": 3}
    with pytest.raises(WeightsError, match=r"holds gen\+lrn, not weights of the network 'critic'"):
        load_weights(path, "critic")


@pytest.mark.parametrize("bundle", [False, True], ids=["alone", "bundle"])
def test_half_precision_rounds_parameters_and_leaves_buffers(tmp_path: Path, bundle: bool) -> None:
    gen, path = micro_gen(), tmp_path / "gen.safetensors"
    if bundle:
        write_bundle(path, gen, micro_lrn())
    else:
        gen.save(path, half=True)
    again = GEN.load(path)
    buffers = dict(gen.named_buffers())
    assert any((buffer.half() != buffer).any() for buffer in buffers.values()), "float16 would have changed them"
    for name, tensor in again.state_dict().items():
        expected = gen.state_dict()[name]
        torch.testing.assert_close(tensor, expected if name in buffers else expected.half().float(), rtol=0, atol=0)


def test_parameters_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"'a\.weight' holds 100000, which float16 cannot"):
        save_weights(tmp_path / "a", "gen", {}, {"a.weight": torch.tensor([1e5])}, half=True)


# -- finding and loading -----------------------------------------------------------------------------------------------


def test_without_a_folder_there_are_no_releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(released, "FOLDER", tmp_path / "nowhere")
    assert released_names() == []
    with pytest.raises(ValueError, match=r"no released weights '300w-68'; this copy of the package has none.*run"):
        find_release("300w-68")


def test_weights_are_a_file_or_a_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert weights_file("300w-68") == find_release("300w-68").path
    assert weights_file(Path("300w-68")) == find_release("300w-68").path
    for other in ("300w-67", "300w-68/weights.safetensors", "runs/300w-68"):
        assert weights_file(other) == Path(other)
    Path("300w-68").touch()
    assert weights_file("300w-68") == Path("300w-68")


def test_releases_are_found_by_name(write: Write) -> None:
    path = write("300w-68")
    write("synthetic-29", 29)
    assert released_names() == ["300w-68", "synthetic-29"]
    release = find_release("300w-68")
    assert (release.name, release.path) == ("300w-68", path)
    assert (release.card.landmarks, release.card.alpha_2, release.card.margin) == (68, 2.5, 0.2)
    assert release.card.metrics[0].nme == 4.5
    with pytest.raises(ValueError, match="no released weights '300w-67'; there are 300w-68, synthetic-29"):
        find_release("300w-67")


def test_a_release_may_lie_in_another_folder(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write().parent
    monkeypatch.setattr(released, "FOLDER", tmp_path / "nowhere")
    assert released_names(folder) == ["300w-68"]
    load_gen(find_release("300w-68", folder))


def test_networks_come_back_rounded_and_ready(write: Write) -> None:
    write()
    gen, lrn = load_networks(find_release("300w-68"))
    for network, original in ((gen, micro_gen()), (lrn, micro_lrn())):
        assert not network.training
        assert network.config == original.config
        for (_, tensor), expected in zip(network.named_parameters(), original.parameters(), strict=True):
            torch.testing.assert_close(tensor, expected.half().float(), rtol=0, atol=0)
    crops = torch.zeros(1, 256, 256, 3, dtype=torch.uint8)
    torch.testing.assert_close(load_gen(find_release("300w-68"))(crops), gen(crops), rtol=0, atol=0)


def test_a_file_with_a_changed_byte_is_refused(write: Write) -> None:
    path = write()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"300w-68\.safetensors' is not the file .* damaged .*Install"):
        load_gen(find_release("300w-68"))


def test_a_file_cut_short_is_refused(write: Write) -> None:
    path = write()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"300w-68\.safetensors' is not the file .* damaged"):
        load_networks(find_release("300w-68"))


def test_another_file_is_refused(write: Write) -> None:
    path = write("300w-68")
    path.write_bytes(write("synthetic-68", seed=1).read_bytes()[::-1])
    with pytest.raises(WeightsError, match="another one"):
        load_networks(find_release("300w-68"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"landmarks": 29}, "holds a GEN for 68 landmarks, its card says 29"),
        ({"parameters": {"gen": 5, "lrn": 7}}, r"holds a GEN of [\d,]+ parameters, its card says 5"),
        ({"action_limit": 1.0}, r"increments of up to [\d.]+ pixels, its card says 1.0"),
    ],
    ids=["scheme", "size", "limit"],
)
def test_networks_that_their_card_does_not_describe_are_refused(write: Write, changes: Any, message: str) -> None:
    write(**changes)
    with pytest.raises(WeightsError, match=message):
        load_networks(find_release("300w-68"))


def test_networks_of_two_schemes_are_refused(write: Write) -> None:
    write("300w-68", 68, 29)
    with pytest.raises(WeightsError, match="holds a LRN for 29 landmarks, its card says 68"):
        load_networks(find_release("300w-68"))


def test_a_file_with_one_network_is_refused(write: Write) -> None:
    path = write()
    micro_gen().save(path)
    card = replace(load_card(path.with_suffix(".json")), sha256=file_digest(path))
    path.with_suffix(".json").write_text(json.dumps(card.document()))
    load_gen(find_release("300w-68"))
    with pytest.raises(WeightsError, match="holds gen, not weights of the network 'lrn'"):
        load_networks(find_release("300w-68"))


# -- cards -------------------------------------------------------------------------------------------------------------


def test_weights_without_their_card_are_refused(write: Write) -> None:
    write().with_suffix(".json").unlink()
    with pytest.raises(WeightsError, match=r"300w-68\.json' is missing.*Install"):
        find_release("300w-68")


def test_the_card_of_another_release_is_refused(write: Write) -> None:
    write(name="300w-68").with_suffix(".json").write_text(write("300w-19", 19).with_suffix(".json").read_text())
    with pytest.raises(WeightsError, match=r"300w-68\.json' is the card of '300w-19'"):
        find_release("300w-68")


def test_a_card_survives_its_file(write: Write, tmp_path: Path) -> None:
    card = load_card(write().with_suffix(".json"))
    path = tmp_path / "card.json"
    path.write_text(json.dumps(card.document()))
    assert load_card(path) == card


@pytest.mark.parametrize("name", [*Card.__dataclass_fields__])
def test_a_card_that_lacks_a_field_is_refused_by_its_name(write: Write, name: str) -> None:
    path = write().with_suffix(".json")
    document = json.loads(path.read_text())
    del document[name]
    path.write_text(json.dumps(document))
    with pytest.raises(WeightsError, match=rf"300w-68\.json' is no card .*missing in the card: {name}\)"):
        find_release("300w-68")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": "zero"}, "the seed must be of type int, got 'zero'"),
        ({"seed": True}, "the seed must be of type int, got True"),
        ({"alpha_2": None}, "the alpha_2 must be of type float, got None"),
        ({"alpha_2": -1}, "alpha_2 and action_limit must be positive"),
        ({"landmarks": 67}, "No landmark scheme has 67 points"),
        ({"sha256": "abc"}, "sha256 must be 64 hexadecimal digits"),
        ({"license": ""}, "nothing is said under license"),
        ({"mood": "good"}, "unknown in the card: mood"),
        ({"parameters": {"gen": 1}}, "missing in the parameters: lrn"),
        ({"parameters": 5}, "the parameters must be of type Parameters"),
        ({"data": {"datasets": {}, "boxes": "landmarks", "missing": []}}, "must name at least one dataset"),
        ({"metrics": [{**METRIC, "nme": 9.0}]}, r"metrics\[0\]: an NME of 9.0 in 4.3 .. 4.8"),
        ({"metrics": [METRIC, {**METRIC, "faces": 1.5}]}, "the faces must be of type int, got 1.5"),
        ({"metrics": [{**METRIC, "nme": float("nan")}]}, "the nme must be of type float, got nan"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_card_that_makes_no_sense_is_refused(write: Write, changes: Any, message: str) -> None:
    path = write().with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(WeightsError, match=message):
        find_release("300w-68")


def test_a_card_that_is_no_json_is_refused(write: Write) -> None:
    path = write().with_suffix(".json")
    path.write_text("{")
    with pytest.raises(WeightsError, match=r"300w-68\.json' is no card of released weights"):
        find_release("300w-68")


# -- what this package ships -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", released_names())
def test_what_is_shipped_is_small_and_as_its_card_says(name: str) -> None:
    release = find_release(name)
    gen, lrn = load_networks(release)
    assert release.path.stat().st_size < released.MAX_BYTES
    assert name.endswith(f"-{release.card.landmarks}")
    gen_row, *policies = (metric.method for metric in release.card.metrics if metric.split != "private")
    assert gen_row == "GEN"
    assert policies
    shapes = gen(torch.zeros(1, 256, 256, 3, dtype=torch.uint8))
    assert shapes.shape == (1, lrn.num_landmarks, 2)
    assert shapes.isfinite().all()


def test_every_card_has_its_weights() -> None:
    assert sorted(path.stem for path in released.FOLDER.glob("*.json")) == released_names()
