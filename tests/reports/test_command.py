from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from probes.command import main
from probes.errors import RequestError
from probes.run import Run
from reports import screenshot
from reports.command import places

Whynan = Callable[..., "CompletedProcess[str]"]

SUBJECT = """
import torch
from torch import nn
from probes import Layout, Subject

class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.attend = nn.Embedding(6, 8), nn.MultiheadAttention(8, 2, batch_first=True)
    def forward(self, batch):
        x = self.embed(batch["ids"])
        return self.attend(x, x, x, key_padding_mask=batch["attention_mask"] == 0)[0]

def subject():
    ids = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0], [1, 1, 1, 1]])
    batch = {"ids": ids, "attention_mask": (ids != 0).long()}
    names = {"ids": ["<pad>", "how", "many", "singers", "<b>", "?"]}
    return Subject(Tagger(), [batch], lambda model, batch: model(batch).square().mean(),
                   lambda model: torch.optim.SGD(model.parameters()), layout=Layout(names=names))
"""


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(SUBJECT)
    return tmp_path


def test_attention_writes_a_page_of_maps(whynan: Whynan, train: Path) -> None:
    done = whynan("attention", "train.py:subject", "--samples", "0,2", "--out", "maps")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "2 attention maps, each with its heads",
        "report: maps/report.html",
        "run: maps",
    ]
    report = train / "maps" / "report.html"
    text = report.read_text()
    assert "What <code>train.py:subject</code> attends to" in text
    assert "2 maps of the first batch, by the weights that the subject came with" in text
    assert text.count("<figure") == 2
    assert "No weight lies on padding." in text
    assert "&lt;pad&gt;" in text
    facts = json.loads((train / "maps" / "run.json").read_text())
    assert facts["complete"] is True
    assert facts["settings"]["attention"]["samples"] == [0, 2]
    report.unlink()
    (train / "train.py").unlink()
    done = whynan("render", "maps")  # from the record alone
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "run: maps")
    assert report.read_text() == text


def test_layers_and_heads_are_chosen(train: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--layers", "0", "--heads", "1", "--samples", "0", "--out", "maps"]
    with pytest.raises(SystemExit) as end:
        main(["attention", "train.py:subject", *arguments])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("1 attention map, each with its heads")
    array = Run(train / "maps").array("attention-000")
    assert (array.values.shape, list(array.labels["head"])) == ((1, 4, 4), ["1"])


def test_a_model_without_attention_is_told_so(
    train: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (train / "train.py").write_text(SUBJECT.replace("Tagger()", "Plain()") + PLAIN)
    with pytest.raises(SystemExit) as end:
        main(["attention", "train.py:subject", "--out", "maps"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("no attention was found in this model: no softmax")
    text = (train / "maps" / "report.html").read_text()
    assert "No attention was found in <code>train.py:subject</code>" in text
    assert "hatched" not in text[text.index("<main") :]


PLAIN = """
class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 4)

    def forward(self, batch):
        return self.table(batch["ids"])
"""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--samples", "7"], "`--samples 7` is not there: the first batch holds 3 samples, 0 to 2"),
        (["--samples", "a"], "`--samples a` is no list of numbers from 0 on"),
        (["--layers", "1"], "`--layers 1` is not there: the layers are 0 `attend`."),
        (["--heads", "2"], "`--heads 2` is not there: no layer has more than 2 heads"),
    ],
)
def test_what_is_not_there_is_a_sentence(
    train: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["attention", "train.py:subject", *arguments, "--out", "maps"])
    said = capsys.readouterr()
    assert end.value.code == 2
    assert said.err.startswith(f"whynan: {sentence}")
    assert said.out == ""
    assert not (train / "maps").exists()


def test_render_of_no_run_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["render", str(tmp_path)])
    assert end.value.code == 2
    assert "is not a run folder" in capsys.readouterr().err


def test_places() -> None:
    assert places("--heads", None) is None
    assert places("--heads", "3, 0,3") == [3, 0]
    with pytest.raises(RequestError, match="no list of numbers"):
        places("--heads", "")


def test_a_missing_browser_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, main_job: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RequestError, match="`chromium` was not found"):
        screenshot.take(
            main_job / "report.html", tmp_path / "x.png", width=99, height=99, dark=False
        )


def test_a_missing_report_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="was not found: name the report"):
        screenshot.take(tmp_path / "no.html", tmp_path / "x.png", width=9, height=9, dark=False)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="Debian's chromium is not installed")
def test_light_is_light_and_dark_has_no_white_island(main_job: Path, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    shares = []
    for dark in (False, True):
        out = tmp_path / f"{dark}.png"
        screenshot.take(main_job / "report.html", out, width=1280, height=2400, dark=dark)
        grey = np.array(Image.open(out).convert("L"))
        assert grey.shape == (2400, 1280)
        shares.append((grey > 200).mean())
    assert shares[0] > 0.7
    assert shares[1] < 0.05


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_maps_are_files_of_their_own(
    train: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    arguments = ["--samples", "0", "--format", kind, "--out", "maps"]
    with pytest.raises(SystemExit) as end:
        main(["attention", "train.py:subject", *arguments])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == [f"picture: maps/attention-000.{kind}", "run: maps"]
    content = (train / "maps" / f"attention-000.{kind}").read_bytes()
    assert content.startswith(b"\x89PNG" if kind == "png" else b"<?xml")
    assert kind == "png" or b"&lt;b&gt;" in content or b"singers" in content
    assert kind == "png" or b"hatched: padding or masked" in content


def test_a_notebook_shows_pages_and_bare_maps(main_job: Path) -> None:
    import torch
    from torch import nn

    from probes.attention import attention_maps
    from reports import show

    frame = show(main_job)._repr_html_()
    assert frame.startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert "<script" not in frame
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.ones(2, 3, 8)
    page = show(attention_maps(model, lambda: model(x, x, x))).page
    assert "2 maps" in page
    assert page.count("<figure") == 2
