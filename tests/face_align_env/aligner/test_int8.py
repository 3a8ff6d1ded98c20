"""The engine int8: the landmarks of PyTorch, nearly, and what it says where it cannot work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from face_align_env.aligner import FaceAligner, export, int8
from face_align_env.datasets import load_dataset
from face_align_env.networks.cascade import MeanStart
from face_align_env.prepared import PreparedFaces

pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")


@pytest.fixture(scope="module")
def faces() -> PreparedFaces:
    return PreparedFaces(load_dataset("synthetic", "test", size=24))


@pytest.fixture(scope="module")
def crops(faces: PreparedFaces) -> np.ndarray:
    return np.stack([faces.crop(i) for i in range(len(faces))])


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("FACE_ALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["300w-68", "synthetic-68"])
@pytest.mark.parametrize("mirror", [False, True])
def test_landmarks_are_nearly_those_of_torch(name: str, mirror: bool, crops: np.ndarray) -> None:
    plain, quick = (FaceAligner.from_pretrained(name, mirror=mirror, engine=engine) for engine in ("torch", "int8"))
    expected, found = plain.refine(crops), quick.refine(crops)
    np.testing.assert_allclose(found.trajectories[:, 0], expected.trajectories[:, 0], atol=6)
    assert np.abs(found.trajectories[:, -1] - expected.trajectories[:, -1]).mean() < 1.0
    assert np.abs(found.trajectories[:, -1] - expected.trajectories[:, -1]).mean() > 0
    assert abs(found.iterations.mean() - expected.iterations.mean()) < 0.5
    if expected.confidences is not None:
        assert found.confidences is not None
        ratios = found.confidences / expected.confidences
        assert np.abs(ratios - 1).mean() < 0.08
        assert np.abs(ratios - 1).max() < 0.35, "a face may have an iteration more, and another state at its end"


def test_a_face_does_not_depend_on_the_faces_beside_it(crops: np.ndarray) -> None:
    aligner = FaceAligner.from_pretrained("300w-68", engine="int8")
    together = aligner.align_crops(crops[:4])[0]
    alone = np.concatenate([aligner.align_crops(crops[i : i + 1])[0] for i in range(4)])
    np.testing.assert_allclose(together, alone, atol=1e-3)
    assert aligner.align_crops(crops[:0])[0].shape == (0, 11, 68, 2)


def test_weights_are_smaller_where_sums_are_cut_off(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And are kept beside those of other processors: a folder of caches may be on a disk that several share."""
    import onnx
    from onnx import numpy_helper

    for cut_off, largest in ((True, 64), (False, 127)):
        before = set((cache / "int8").glob("*.onnx"))
        monkeypatch.setattr(int8, "saturates", lambda cut_off=cut_off: cut_off)
        FaceAligner.from_pretrained("synthetic-68", engine="int8")
        made = set((cache / "int8").glob("*.onnx")) - before
        assert len(made) == 2
        for path in made:
            tensors = onnx.load_from_string(path.read_bytes()[:-32]).graph.initializer
            weights = [numpy_helper.to_array(each) for each in tensors if each.name.endswith("weight_quantized")]
            weights = weights or [numpy_helper.to_array(t) for t in tensors if t.data_type == onnx.TensorProto.INT8]
            assert max(np.abs(each.astype(int)).max() for each in weights if each.ndim > 1) == largest


def test_networks_are_made_once_and_again_where_the_file_is_damaged(
    cache: Path, crops: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bytes] = []
    quantize = int8._quantize
    monkeypatch.setattr(int8, "_quantize", lambda *args: made.append(args[0]) or quantize(*args))
    expected = FaceAligner.from_pretrained("synthetic-68", engine="int8").align_crops(crops[:2])[0]
    assert len(made) == 2
    files = sorted((cache / "int8").iterdir())
    assert [path.suffix for path in files] == [".onnx"] * 2
    FaceAligner.from_pretrained("synthetic-68", engine="int8")
    assert len(made) == 2
    files[0].write_bytes(files[0].read_bytes()[:-40])
    again = FaceAligner.from_pretrained("synthetic-68", engine="int8").align_crops(crops[:2])[0]
    assert len(made) == 3
    np.testing.assert_array_equal(again, expected)


def test_without_a_folder_of_caches_it_works_all_the_same(monkeypatch: pytest.MonkeyPatch, crops: np.ndarray) -> None:
    monkeypatch.setenv("FACE_ALIGN_CACHE", "off")
    aligner = FaceAligner.from_pretrained("synthetic-68", engine="int8")
    assert np.isfinite(aligner.align_crops(crops[:1])[0]).all()


def test_the_mean_shape_stays_what_it_is(faces: PreparedFaces, crops: np.ndarray) -> None:
    mean = torch.from_numpy(faces.mean_shape())
    plain = FaceAligner.from_pretrained("300w-68")
    assert isinstance(plain.lrn, torch.nn.Module)
    quick = FaceAligner(MeanStart(mean), plain.lrn, engine="int8")
    np.testing.assert_array_equal(quick.align_crops(crops[:1])[0][0, 0], mean.numpy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "openvino"}, "engine must be one of torch, int8"),
        ({"engine": "int8", "dtype": torch.bfloat16}, "leave out device and dtype"),
        ({"engine": "int8", "device": "meta"}, "leave out device and dtype"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FaceAligner.from_pretrained("300w-68", **options)


def test_its_networks_are_not_exported() -> None:
    with pytest.raises(export.ExportError, match="engine 'torch'"):
        export.build(FaceAligner.from_pretrained("synthetic-68", engine="int8"))
