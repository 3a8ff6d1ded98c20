"""Pages and figures of the site that are made from the package: environment, model cards, landmark schemes.

``conf.py`` calls :func:`write_pages` at every build, so that none of them can fall behind the code. What it writes is
in ``_generated/``, which git ignores.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from face_align_env.datasets import load_dataset
from face_align_env.landmarks import SCHEMES, LandmarkScheme
from face_align_env.prepared import PreparedFaces
from face_align_env.released import Card, find_release, released_names

BLUE, ORANGE = "#0072B2", "#D55E00"  # of the Okabe-Ito palette, which colour-blind readers can tell apart


def write_pages(docs: Path) -> None:
    """Write everything into ``docs/_generated``."""
    folder = docs / "_generated"
    folder.mkdir(exist_ok=True)
    (folder / "environment.md").write_text(environment_page(), encoding="utf-8")
    (folder / "model-cards.md").write_text(model_cards_page(), encoding="utf-8")
    for scheme in SCHEMES.values():
        draw_scheme(scheme, folder / f"scheme-{scheme.num_landmarks}.svg")
    draw_contact_sheet(folder / "synthetic.png")


def environment_page() -> str:
    """The docstring of ``FaceAlignEnv``, which is Markdown, with its headings as they are."""
    from face_align_env.env import FaceAlignEnv

    return inspect.cleandoc(FaceAlignEnv.__doc__ or "").replace("```python\n>>>", "```pycon\n>>>") + "\n"


def model_cards_page() -> str:
    """A section for each released file of weights."""
    return "\n".join(_card_section(find_release(name).card) for name in released_names())


def _card_section(card: Card) -> str:
    faces = ", ".join(f"{dataset} ({count:,} faces)" for dataset, count in card.data.datasets.items())
    facts = {
        "landmarks": card.landmarks,
        "trained on": f"{faces}; {card.data.boxes} boxes",
        "missing of the published training set": "; ".join(card.data.missing) or "nothing",
        "recipe": card.recipe,
        "command": f"`{card.command}`",
        "parameters": f"GEN {card.parameters.gen:,}, LRN {card.parameters.lrn:,}",
        "Eq. 3": f"alpha_2 = {card.alpha_2:g} px",
        "intended use": card.intended_use,
        "not trained on": card.not_trained_on,
        "licence": card.license,
        "SHA-256": f"`{card.sha256}`",
    }
    lines = [f"## {card.name}", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in facts.items()]
    lines += ["", "| dataset, split | faces | method | NME % | 95 % interval | failures % | iterations |"]
    lines += ["|---|---|---|---|---|---|---|"]
    lines += [
        f"| {m.dataset}, {m.split} | {m.faces} | {m.method} | {m.nme:.2f} | {m.nme_low:.2f} .. {m.nme_high:.2f} | "
        f"{m.failure_rate:.1f} | {m.iterations:.2f} |"
        for m in card.metrics
    ]
    return "\n".join([*lines, ""])


def draw_scheme(scheme: LandmarkScheme, path: Path) -> None:
    """The mean shape of synthetic faces with the number of each point, counted from 0."""
    shape = PreparedFaces(load_dataset("synthetic", landmarks=scheme.num_landmarks, size=200)).mean_shape()
    figure, axes = plt.subplots(figsize=(6, 6), layout="constrained")
    for points, closed in scheme.contours:
        line = shape[[*points, *points[:1]] if closed else list(points)]
        axes.plot(line[:, 0], line[:, 1], color=BLUE, linewidth=1)
    axes.plot(shape[:, 0], shape[:, 1], "o", color=ORANGE, markersize=4)
    for number, (x, y) in enumerate(shape):
        axes.annotate(str(number), (x, y), (3, 3), textcoords="offset points", fontsize=9)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.axis("off")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def draw_contact_sheet(path: Path, rows: int = 4, columns: int = 8) -> None:
    """The first synthetic test faces, without landmarks."""
    faces = load_dataset("synthetic", "test", size=rows * columns)
    images = [faces.image(i) for i in range(rows * columns)]
    sheet = np.concatenate([np.concatenate(images[r * columns : (r + 1) * columns], axis=1) for r in range(rows)])
    plt.imsave(path, sheet[::2, ::2])
