"""Landmarks for photos and videos: detection, and the cascade on what was detected."""

from face_align_env.aligner.aligner import FaceAligner
from face_align_env.aligner.alignment import Alignment, draw_alignments
from face_align_env.aligner.detection import Detector
from face_align_env.aligner.detectors import get_detector

__all__ = ["Alignment", "Detector", "FaceAligner", "draw_alignments", "get_detector"]
