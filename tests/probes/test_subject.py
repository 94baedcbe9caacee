from __future__ import annotations

import textwrap
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from probes import Subject
from probes.errors import RequestError
from probes.subject import load_subject

SUBJECT = textwrap.dedent(
    """
    import torch
    from probes import Subject
    from beside import WIDTH

    def subject():
        model = torch.nn.Linear(WIDTH, 2)
        return Subject(
            model,
            [{"x": torch.randn(4, WIDTH)}],
            lambda model, batch: model(batch["x"]).square().mean(),
            lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        )

    number = 3
    """
)

FIELDS = [
    "model",
    "batches",
    "loss",
    "optimizer",
    "predict",
    "train_step",
    "schedule",
    "clip_norm",
    "parts",
    "metrics",
    "interventions",
    "eval_batches",
    "describe",
    "layout",
    "group",
]


@pytest.fixture
def train(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("WIDTH = 3\n")
    path = tmp_path / "train.py"
    path.write_text(SUBJECT)
    return path


def test_the_fields_are_those_of_the_contract_in_order() -> None:
    names = [field.name for field in fields(Subject)]
    assert names == FIELDS


def test_a_function_is_called_afresh_after_seeding(train: Path) -> None:
    first, again = (load_subject(f"{train}:subject", seed=5) for _ in range(2))
    other = load_subject(f"{train}:subject", seed=6)
    assert torch.equal(first.model.weight, again.model.weight)
    assert first.model is not again.model
    assert not torch.equal(first.model.weight, other.model.weight)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("train.py", "`train.py` names no subject: `FILE.py:NAME`"),
        ("gone.py:subject", "`gone.py` was not found below"),
        ("gone.module:subject", "there is no module `gone` here; name a file"),
        ("{train}:nothing", "holds no `nothing`; of its own it holds WIDTH, number, subject."),
        ("{train}:subjct", "number, subject. Did you mean `subject`?"),
        (
            "{train}:number",
            "is an object `int`, but a Subject, a trainer of a known framework, or a",
        ),
    ],
)
def test_a_wrong_address_is_a_sentence(train: Path, address: str, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        load_subject(address.format(train=train))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("code", "name", "sentence"),
    [
        ("import gone", "x", "`broken.py` raised ModuleNotFoundError: No module named 'gone' at b"),
        (
            "\nx = (",
            "x",
            "raised SyntaxError: '(' was never closed (broken.py, line 2): `x = (`. P",
        ),
        ("def f():\n  1 / 0", "f", "raised ZeroDivisionError: division by zero at broken.py:2. R"),
        ("def f(x): ...", "f", "`broken.py:f`, called without arguments, raised TypeError: f() m"),
        ("def f(): ...", "f", "`broken.py:f` was called and returned None, but a Subject, a"),
        (
            "from probes import Subject\ndef f(): return Subject(1, 2, optimizer=3)",
            "f",
            "missing 1 required positional argument: 'loss' at broken.py:2. A Subject needs `lo",
        ),
    ],
)
def test_what_the_users_file_raises_is_a_sentence_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, name: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text(code + "\n")
    with pytest.raises(RequestError) as caught:
        load_subject(f"broken.py:{name}")
    assert sentence in str(caught.value)
    assert (caught.value.__cause__ is None) == ("returned None" in sentence)


def test_a_model_is_told_from_a_subject_and_is_not_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("import torch\nmodel = torch.nn.Linear(1, 1)\n")
    with pytest.raises(RequestError, match=r"`net.py:model` is a model \(`Linear`, an nn.Module\)"):
        load_subject("net.py:model")
