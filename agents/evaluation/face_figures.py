"""Pictures of an evaluation that need the faces: errors by pose and by landmark, and the difficult faces themselves."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from face_align_env.agents.evaluation.figures import style, write_figures
from face_align_env.agents.evaluation.measure import Outcome
from face_align_env.extras import needs
from face_align_env.files import write_bytes
from face_align_env.metrics import FAILURE_THRESHOLD, Floats, asymmetry, mean_over_faces
from face_align_env.prepared import PreparedFaces
from face_align_env.rendering import INITIAL, SCALE, Color, Picture, draw_caption, draw_shape, enlarge, side_by_side

with needs("plots", "A figure"):
    import matplotlib.pyplot as plt
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

_POSE_BINS = 5
_FACES = 6  # in each row of the sheet
_PREDICTED: Color = (60, 255, 60)  # green, as in the paper's Fig. 3


def pose_bins(turned: Floats) -> list[tuple[str, npt.NDArray[np.int64]]]:
    """Faces in bins of equal numbers, from those seen from the front to the most turned.

    :param turned: (N,) see :func:`face_align_env.metrics.asymmetry`; NaN: its landmarks are not annotated
    :return: each bin's label, and its faces; the last bin is that of NaN, where there are any
    """
    known = np.flatnonzero(~np.isnan(turned))
    ordered = known[np.argsort(turned[known], kind="stable")]
    bins = []
    for faces in np.array_split(ordered, min(_POSE_BINS, len(ordered))) if len(ordered) else []:
        bins.append((f"{turned[faces[0]]:.2f} to {turned[faces[-1]]:.2f}\n{len(faces):,} faces", faces))
    unknown = np.flatnonzero(np.isnan(turned))
    if len(unknown):
        bins.append((f"eyes not annotated\n{len(unknown):,} faces", unknown))
    return bins


def error_by_pose(outcomes: Sequence[Outcome], turned: Floats, title: str) -> Figure:
    """Mean NME and failure rate, with 95 % intervals, of faces that are turned more and more to a side.

    :param turned: (N,) see :func:`face_align_env.metrics.asymmetry`
    """
    bins = pose_bins(turned)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for i, outcome in enumerate(outcomes):
        position = np.arange(len(bins)) + (i - (len(outcomes) - 1) / 2) * 0.08  # side by side, to see all intervals
        for axes, values in ((left, outcome.errors), (right, outcome.errors > FAILURE_THRESHOLD)):
            means = [100 * float(values[faces].mean()) for _, faces in bins]
            spread = [196 * float(values[faces].std()) / np.sqrt(len(faces)) for _, faces in bins]
            axes.errorbar(
                position, means, yerr=spread, marker="o", markersize=4, capsize=2, **style(outcome.row.method)
            )
    label = "asymmetry: mid-line off the middle of the eyes, in halves of their distance"
    for axes, quantity in ((left, "mean NME, %"), (right, f"NME above {100 * FAILURE_THRESHOLD:.0f} %, % of faces")):
        axes.set(xlabel=label, ylabel=quantity)
        axes.set_xticks(range(len(bins)), [name for name, _ in bins], fontsize=8)
        axes.xaxis.label.set_fontsize(9)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    figure.suptitle(title)
    return figure


def error_by_landmark(outcomes: Sequence[Outcome], prepared: PreparedFaces, title: str) -> Figure:
    """The mean shape with a disc at each landmark, a panel a method: its diameter is the mean error, to scale.

    :param outcomes: the methods, with their errors of each landmark
    """
    errors = [mean_over_faces(outcome.landmark_errors) for outcome in outcomes if outcome.landmark_errors is not None]
    shape, d = prepared.mean_shape(), float(prepared.d.mean())
    worst = 100 * max(float(np.nanmax(error)) for error in errors)
    low, high = shape.min(axis=0) - 0.08 * np.ptp(shape, axis=0), shape.max(axis=0) + 0.08 * np.ptp(shape, axis=0)
    figure, panels = plt.subplots(1, len(outcomes), figsize=(4.6 * len(outcomes) + 1, 5.2), layout="constrained")
    colors = plt.get_cmap("viridis_r")
    for axes, outcome, error in zip(np.atleast_1d(panels), outcomes, errors, strict=True):
        for contour, closed in prepared.scheme.contours:
            curve = shape[[*contour, *(contour[:1] if closed else ())]]
            axes.plot(curve[:, 0], curve[:, 1], color="lightgray", linewidth=1, zorder=1)
        for (x, y), value in zip(shape, error, strict=True):
            if np.isfinite(value):  # where the landmark counts in some face
                axes.add_patch(
                    Circle((x, y), value * d / 2, color=colors(100 * value / worst), alpha=0.85, linewidth=0)
                )
        axes.set(title=f"{outcome.row.method}: {outcome.row.nme:.2f} %", aspect="equal")
        axes.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), xticks=[], yticks=[])
    scale = plt.cm.ScalarMappable(Normalize(0, worst), colors)
    figure.colorbar(
        scale, ax=panels, shrink=0.8, label="mean error of the landmark, % of the normaliser (discs: to scale)"
    )
    figure.suptitle(title)
    return figure


def difficult_faces(gen: Outcome, turned: Floats, count: int = _FACES) -> tuple[list[int], list[int]]:
    """The faces of the sheet, chosen by GEN and the annotation alone: nothing that the other methods do matters.

    :param gen: GEN on the split
    :param turned: (N,) see :func:`face_align_env.metrics.asymmetry`
    :param count: at most so many of each
    :return: those with the largest error of x_0, and of the others the most turned; the worst first
    """
    worst = np.argsort(-gen.errors, kind="stable")[:count].tolist()
    # An eye corner that is not annotated is one that the head hides.
    by_pose = np.argsort(-np.where(np.isnan(turned), np.inf, turned), kind="stable").tolist()
    return worst, [face for face in by_pose if face not in set(worst)][:count]


def face_sheet(gen: Outcome, outcome: Outcome, prepared: PreparedFaces) -> Picture:
    """Difficult faces as in the paper's Fig. 3, see :func:`difficult_faces`: x_0 in orange, the final shape in green.

    :param gen: GEN on the split
    :param outcome: the method to show, with its final shapes
    :return: (H, W, 3) uint8: a row of those with the largest error of x_0, and one of the most turned
    """
    assert gen.shapes is not None
    assert outcome.shapes is not None
    turned = asymmetry(prepared.landmarks, prepared.counted)
    rows = []
    headings = (f"largest error of x_0 ({gen.row.method})", "of the others, those turned most to a side")
    for heading, faces in zip(headings, difficult_faces(gen, turned), strict=True):
        pictures = []
        for face in faces:
            picture = enlarge(prepared.crop(face))
            drawn = prepared.counted[face]
            picture = draw_shape(picture, gen.shapes[face], prepared.scheme, INITIAL, radius=0, drawn=drawn)
            picture = draw_shape(picture, outcome.shapes[face], prepared.scheme, _PREDICTED, drawn=drawn)
            errors = f"NME {100 * gen.errors[face]:.1f} -> {100 * outcome.errors[face]:.1f} %"
            pictures.append(draw_caption(picture, f"{errors}   iterations: {outcome.iterations[face]}"))
        if pictures:
            sheet = side_by_side(pictures, columns=_FACES)
            text = f"{heading}; orange: x_0, green: {outcome.row.method}"
            rows += [_heading(text, sheet.shape[1]), sheet]
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    )


def _heading(text: str, width: int) -> Picture:
    band = np.full((20 * SCALE, width, 3), 255, dtype=np.uint8)
    cv2.putText(band, text, (8, 14 * SCALE), cv2.FONT_HERSHEY_SIMPLEX, 0.4 * SCALE, (0, 0, 0), 2, cv2.LINE_AA)
    return band


def save_face_figures(
    outcomes: Sequence[Outcome], prepared: PreparedFaces, title: str, folder: str | os.PathLike[str]
) -> list[Path]:
    """Write all pictures of this module as PNG.

    :param outcomes: the rows of the evaluation, of :func:`face_align_env.agents.evaluation.measure.evaluate_method`
    :param prepared: the faces that were evaluated
    :param title: of each figure
    :param folder: where they go
    :return: their paths
    """
    by_name = {outcome.row.method: outcome for outcome in outcomes}
    # The cascades that begin at the mean shape are far off, and would press the others together.
    ours = [outcome for outcome in outcomes if not outcome.row.method.startswith("LRN-")]
    gen, dcrn = by_name.get("GEN"), by_name.get("DCRN")
    compared = [outcome for outcome in (gen, dcrn) if outcome is not None]
    figures = {"error-by-pose": error_by_pose(ours, asymmetry(prepared.landmarks, prepared.counted), title)}
    if compared:
        figures["error-by-landmark"] = error_by_landmark(compared, prepared, title)
    paths = write_figures(figures, folder)
    if gen is not None and dcrn is not None:
        buffer = io.BytesIO()
        Image.fromarray(face_sheet(gen, dcrn, prepared)).save(buffer, "PNG")
        paths.append(Path(folder) / "faces.png")
        write_bytes(paths[-1], buffer.getvalue())
    return paths
