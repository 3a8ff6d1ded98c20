"""The paper's tables: quoted right, and our figures in the right cells; `evaluate` from end to end."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from face_align_env import datasets
from face_align_env.agents.evaluation import run_evaluation as runs
from face_align_env.agents.evaluation.measure import Outcome, Row
from face_align_env.agents.evaluation.paper_tables import QUOTED, TABLES, fill, paper_tables
from face_align_env.agents.evaluation.run_evaluation import evaluate
from face_align_env.agents.evaluation.tables import Table
from face_align_env.agents.run_config import RunConfig
from face_align_env.datasets import DatasetNotFoundError, FaceDataset
from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.networks.lrn import LRN
from face_align_env.pretrain import recipes
from face_align_env.pretrain.recipes import Data

# Copied by hand from the paper: by column where the code has rows.
COLUMNS_OF_THE_PAPER = {
    ("300w", 0): """
        SDM   CFAN  CFSS  MDM   RAR  TSR  DCRN
        2013  2014  2015  2016  2016 2017 -
        5.57  5.50  4.73  4.83  4.12 4.36 4.64
        15.40 16.78 9.98  10.14 8.35 7.56 9.21
        7.50  7.69  5.76  5.88  4.94 4.99 5.54""",
    ("300w", 1): """
        DSRN PCD-CNN SAN  DCRN
        2018 2018    2018 -
        4.12 3.67    3.34 3.32
        9.68 7.62    6.60 6.35
        5.21 4.44    3.98 3.92""",
    ("cofw", 0): """
        HPM   DRDA RAR  DAC-CSR PCD-CNN DCRN
        2014  2016 2016 2017    2018    -
        7.50  6.46 6.03 6.03    5.77    5.42
        13.00 6.00 4.14 4.73    3.73    4.34""",
    ("aflw", 0): """
        RCPR CFSS DAC-CSR TSR  SAN  DCRN
        2013 2015 2017    2017 2018 -
        3.73 3.92 2.27    2.17 1.91 1.92
        2.87 2.68 1.81    -    1.85 1.78""",
}
TABLE_6_OF_THE_PAPER = {
    "300w": "6.57 5.16 4.53 4.44 4.02 3.92 2.61",
    "cofw": "6.37 27.32 17.17 16.73 5.07 5.42 3.25",
    "aflw": "2.15 3.91 3.64 3.85 1.97 1.92 2.09",
}


@pytest.mark.parametrize(("dataset", "index"), COLUMNS_OF_THE_PAPER)
def test_comparisons_are_quoted_as_they_are_printed(dataset: str, index: int) -> None:
    methods, years, *figures = (
        [None if word == "-" else word for word in line.split()]
        for line in COLUMNS_OF_THE_PAPER[dataset, index].strip().splitlines()
    )
    paper = TABLES[dataset][index]
    assert [quote.method for quote in paper.quotes] == methods
    assert [quote.year for quote in paper.quotes] == [year and int(year) for year in years]
    for column, printed in enumerate(figures):
        assert [quote.values[column] for quote in paper.quotes] == [value and float(value) for value in printed]
    assert {len(quote.values) for quote in paper.quotes} == {len(figures)} == {len(paper.columns)}


@pytest.mark.parametrize("dataset", TABLE_6_OF_THE_PAPER)
def test_table_6_is_quoted_as_it_is_printed(dataset: str) -> None:
    paper = TABLES[dataset][-1]
    *errors, steps = map(float, TABLE_6_OF_THE_PAPER[dataset].split())
    methods = ["GEN", "LRN-2", "LRN-4", "LRN-8", "GEN-LRN8", "DCRN"]
    assert [(quote.method, quote.values[0]) for quote in paper.quotes] == list(zip(methods, errors, strict=True))
    assert [quote.values[1] for quote in paper.quotes] == [None] * 5 + [steps]


def outcome(method: str, base: float, inter_pupil: float | None = 0.0) -> Outcome:
    """``base``, plus 0.1 for the failures and 0.2 for the iterations, so that each figure tells where it is from."""
    row = Row(method, base, 0, 0, inter_pupil, base + 0.1, 0, base + 0.2, 0)
    return Outcome(row, np.zeros(1), np.zeros(1, dtype=np.int64), np.zeros((1, 1)))


def lines(sheet: Table, source: str) -> list[tuple[str, ...]]:
    assert sheet.columns[-1] == "source"
    return [row[:-1] for row in sheet.rows if row[-1] == source]


def test_our_rows_of_table_3_are_under_their_splits_and_normalisers() -> None:
    found = {
        "full": [outcome("GEN", 3, 33), outcome("DCRN", 4, 44), outcome("LRN+Eq.3", 5, None)],
        "challenging": [outcome("GEN", 6, 66), outcome("DCRN", 7, 77)],
        "private": [outcome("DCRN", 9, 99)],
    }
    pupil, ocular, ablation = paper_tables("300w", found, "ours", ["a note"])
    assert pupil.columns == ocular.columns == ("method", "year", "common", "challenging", "full", "source")
    assert "inter-pupil" in pupil.title
    assert "inter-ocular" in ocular.title
    assert lines(pupil, "ours") == [
        ("DCRN", "", "", "77.00", "44.00"), ("GEN", "", "", "66.00", "33.00"), ("LRN+Eq.3", "", "", "", ""),
    ]  # fmt: skip
    assert lines(ocular, "ours") == [
        ("DCRN", "", "", "7.00", "4.00"), ("GEN", "", "", "6.00", "3.00"), ("LRN+Eq.3", "", "", "", "5.00"),
    ]  # fmt: skip
    assert lines(ablation, "ours") == [("GEN", "3.00", "3.20"), ("DCRN", "4.00", "4.20"), ("LRN+Eq.3", "5.00", "5.20")]
    assert lines(pupil, QUOTED)[0] == ("SDM", "2013", "5.57", "15.40", "7.50")
    assert lines(ocular, QUOTED)[-1] == ("DCRN", "", "3.32", "6.35", "3.92")
    assert {sheet.notes for sheet in (pupil, ocular, ablation)} == {("a note",)}


def test_our_rows_of_tables_4_and_5() -> None:
    table_4, table_6 = paper_tables("cofw", {"test": [outcome("DCRN", 2)]})
    assert lines(table_4, "this run") == [("DCRN", "", "2.00", "2.10")]
    assert lines(table_4, QUOTED)[0] == ("HPM", "2014", "7.50", "13.00")
    assert lines(table_6, "this run") == [("DCRN", "2.00", "2.20")]
    table_5, _ = paper_tables("aflw", {"frontal": [outcome("GEN", 1)], "full": [outcome("GEN", 2)]})
    assert lines(table_5, "this run") == [("GEN", "", "2.00", "1.00")]
    assert ("TSR", "2017", "2.17", "") in lines(table_5, QUOTED)


def test_each_of_our_rows_is_behind_the_quoted_one_of_its_method() -> None:
    methods = ["GEN", "LRN-2", "LRN-4", "LRN-8", "GEN-LRN8", "LRN+Eq.3", "DCRN"]
    sheet = fill(TABLES["300w"][-1], {"full": [outcome(method, 1) for method in methods]})
    ordered = [(row[0], row[-1] == QUOTED) for row in sheet.rows]
    paired = [(method, quoted) for method in methods if method != "LRN+Eq.3" for quoted in (True, False)]
    assert ordered == [*paired, ("LRN+Eq.3", False)]


def test_there_are_tables_only_where_there_is_something_to_compare() -> None:
    found = [outcome("DCRN", 1)]
    assert paper_tables("ytf", {"test": found}) == []
    assert paper_tables("300w", {"private": found, "train": found}) == []
    assert ["Table 3" in sheet.title for sheet in paper_tables("300w", {"common": found})] == [True, True]
    assert ["Table 5" in sheet.title for sheet in paper_tables("aflw", {"frontal": found})] == [True]


@pytest.fixture
def fake_300w(toy_dataset: Any, monkeypatch: pytest.MonkeyPatch) -> type[FaceDataset]:
    """Toy faces under the name 300w; without the private split, and with fewer training faces than there should be."""

    class Fake(toy_dataset):
        name = "300w"
        splits = ("train", "common", "challenging", "full", "private")
        test_split = "full"
        protocol = {"train": 10, "full": 3}  # noqa: RUF012
        absent: tuple[str, ...] = ("private",)

        def __init__(self, split: str, root: str | None = None, landmarks: int | None = None) -> None:
            if split in self.absent:
                raise DatasetNotFoundError(f"no folder of {split}")
            super().__init__(split, size=3)

    classes = {"300w": Fake, "other": type("Other", (Fake,), {"name": "other", "protocol": {}})}
    for module in (recipes, datasets):
        monkeypatch.setattr(module, "dataset_class", classes.__getitem__)
    return Fake


@pytest.fixture
def run(
    tmp_path: Path, new_lrn: Callable[..., LRN], mean_shape: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Path, str]]:
    """``run(dataset="300w", splits=None, on=None)`` evaluates untrained networks; its folder, and what it prints."""
    monkeypatch.setattr(runs, "save_figures", lambda outcomes, title, folder: [folder / "ced.png"])
    monkeypatch.setattr(runs, "save_face_figures", lambda outcomes, prepared, title, folder: [])
    monkeypatch.chdir(tmp_path)  # the folder's path is short enough for a line
    folder = Path("toy")
    torch.manual_seed(0)
    GEN(GENConfig(input_size=16, width=4, hidden=16), mean_shape).save(folder / "gen" / "weights.safetensors")
    for stage in ("gen-lrn4", "gen-lrn8", "dcrn"):
        new_lrn().save(folder / stage / "weights.safetensors")

    def call(dataset: str = "300w", splits: list[str] | None = None, on: str | None = None) -> tuple[Path, str]:
        if not (folder / "config.json").exists():
            RunConfig(Data(dataset), preset="micro", seed=5, alpha_2=3.0).write(folder)
        console = Console(width=160, record=True, file=io.StringIO())
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            evaluate(folder, splits, console=console, on=on)
        return folder, console.export_text()

    return call


@pytest.mark.usefixtures("fake_300w")
def test_an_evaluation_ends_in_the_papers_tables(run: Callable[..., tuple[Path, str]]) -> None:
    folder, output = run()
    skipped = [line for line in output.splitlines() if "private" in line]
    assert len(skipped) == 1
    assert skipped[0].startswith("Skipped 300w private")
    names = {path.name for path in folder.glob("*.*") if path.suffix in (".json", ".md")}
    assert names == {
        "config.json", "evaluation.json", "evaluation-common.json", "evaluation-challenging.json", "tables.md",
    }  # fmt: skip
    markdown = (folder / "tables.md").read_text()
    order = [
        *(f"300w {split}, 3 faces, preset micro, seed 5" for split in ("common", "challenging", "full")),
        *("Table 3, inter-pupil", "Table 3, inter-ocular", "Table 6"),
    ]
    for text in (output, markdown):
        assert sorted(order, key=text.index) == order
    row = {
        split: json.loads((folder / f"evaluation{name}.json").read_text())["rows"][-1]
        for split, name in (("common", "-common"), ("challenging", "-challenging"), ("full", ""))
    }
    for key in ("nme", "nme_inter_pupil"):
        cells = [f"{row[split][key]:.2f}" for split in ("common", "challenging", "full")]
        assert f"| DCRN |  | {' | '.join(cells)} | this run |" in markdown
    assert "| SDM | 2013 | 5.57 | 15.40 | 7.50 | quoted from the paper |" in markdown
    assert "this run: 300w, common 3 faces, challenging 3 faces, full 3 faces, preset micro, seed 5" in markdown
    # Under each of the three splits' and the three tables of the paper.
    assert markdown.count("300w train: 3 of the protocol's 10 faces") == 6
    assert output.count("300w train: 3 of the protocol's 10 faces") == 6


@pytest.mark.usefixtures("fake_300w")
def test_a_split_that_was_named_has_to_be_there(run: Callable[..., tuple[Path, str]]) -> None:
    with pytest.raises(DatasetNotFoundError, match="no folder of private"):
        run(splits=["private"])
    folder, output = run(splits=["common"])
    assert "Skipped" not in output
    assert "Table 3" in output
    assert "Table 6" not in output, "it is about the full set"
    assert (folder / "tables-common.md").is_file()
    assert not (folder / "tables.md").exists(), "that is the file of all splits"


def test_no_data_at_all_is_an_error(
    run: Callable[..., tuple[Path, str]], fake_300w: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_300w, "absent", fake_300w.splits)
    with pytest.raises(DatasetNotFoundError):
        run()


def test_training_faces_need_not_be_at_hand(
    run: Callable[..., tuple[Path, str]], fake_300w: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_300w, "absent", ("train", "private"))
    monkeypatch.setattr(fake_300w, "protocol", {"challenging": 4})
    _, output = run()
    assert "300w train" not in output
    # Under the split's table and the three of the paper.
    assert output.count("300w challenging: 3 of the protocol's 4 faces") == 4


@pytest.mark.usefixtures("fake_300w")
def test_a_run_on_another_dataset_says_what_it_was_trained_on(run: Callable[..., tuple[Path, str]]) -> None:
    folder, output = run("other", on="300w")
    markdown = (folder / "tables-300w.md").read_text()
    for text in (output, markdown):
        assert "this run, trained on other" in text
        assert "quoted from the paper" in text
        assert "300w train" not in text, "it was not trained on these"
    folder, output = run("other")
    assert "quoted" not in output, "the paper has no figures on it"
    assert "other full, 3 faces" in (folder / "tables.md").read_text()


def test_figures_of_another_normaliser_are_not_set_beside_the_papers(
    run: Callable[..., tuple[Path, str]], fake_300w: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_300w, "normalizer", "face_size")
    folder, output = run()
    assert "The paper's tables are left out: they are of 68 landmarks" in output
    assert "quoted" not in output + (folder / "tables.md").read_text()


def test_the_split_by_occlusion_is_printed_where_occlusion_is_marked(
    run: Callable[..., tuple[Path, str]], fake_300w: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = fake_300w.annotation

    def annotation(self: FaceDataset, index: int) -> Any:
        visible = np.ones(68, dtype=np.bool_)
        visible[: 30 * index] = False  # 0, 44 and 88 %
        return replace(plain(self, index), visible=visible)

    monkeypatch.setattr(fake_300w, "annotation", annotation)
    folder, output = run(splits=["full"])
    for text in (output, (folder / "tables-full.md").read_text()):
        assert "fewer than 30 % in 1 faces, 30 % or more in 2 faces" in " ".join(text.split())
