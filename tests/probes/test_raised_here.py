"""Which line is the user's: one of what they trained, and not the call of the diagnosis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from probes import raised
from probes.checking import check

TRAINED = """
import torch
from torch import nn
from probes import Subject

def loss(model, batch):
    x, y = batch
    p = torch.sigmoid(model(x).squeeze(-1))
    return -(y * torch.log(p) + (1 - y) * torch.log(1 - p)).mean()

def subject():
    torch.manual_seed(0)
    data = [(torch.randn(8, 4), torch.randint(0, 2, (8,)).float())]
    return Subject(nn.Linear(4, 1), data, loss, lambda m: torch.optim.Adam(m.parameters()))
"""


@pytest.mark.parametrize("own", [True, False])
def test_the_script_that_calls_a_diagnosis_is_no_source(own: bool, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    if own:  # else it is a library's: no such file is the user's
        path.write_text(TRAINED)
    names: dict[str, Any] = {}
    exec(compile(TRAINED, str(path), "exec"), names)
    found = {each.code: each.source for each in check(names["subject"]()).findings}
    assert found["WIR012"] == (f"{path}:9" if own else None)


def test_what_runs_a_subject_is_where_it_is_looked_for() -> None:
    assert [path for path in raised._DRIVERS if not path.is_file()] == []
