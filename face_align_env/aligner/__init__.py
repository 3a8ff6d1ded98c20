"""Landmarks for photos: detection, and the cascade on what was detected."""

from face_align_env.aligner.aligner import Alignment, FaceAligner, draw_alignments

__all__ = ["Alignment", "FaceAligner", "draw_alignments"]
