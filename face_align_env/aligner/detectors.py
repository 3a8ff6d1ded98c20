"""The face detectors there are, by name."""

from __future__ import annotations

from face_align_env.aligner.detection import DETECTORS, Detector
from face_align_env.aligner.haar import HaarDetector
from face_align_env.aligner.yunet import YuNetDetector


def get_detector(name: str = "auto") -> Detector:
    """A detector by its name.

    :param name: ``"yunet"``: a small network (:mod:`face_align_env.aligner.yunet`); ``"haar"``: OpenCV's cascades of
        Haar features (:mod:`face_align_env.aligner.haar`), for an OpenCV without ``dnn``; ``"auto"``: the first of them
        that this OpenCV can run
    :raises ValueError: there is no detector of that name
    :raises DetectorNotFoundError: this OpenCV cannot run it
    """
    import cv2

    if name not in DETECTORS:
        raise ValueError(f"There is no face detector '{name}'; there are {', '.join(DETECTORS)}.")
    if name == "haar" or (name == "auto" and not hasattr(cv2, "FaceDetectorYN")):
        return HaarDetector()
    return YuNetDetector()
