from __future__ import annotations

import sys
from pathlib import Path

import pytest

from model.scalars import Nowhere, scalars


def test_without_tensorboard_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it were not there
    found = scalars(tmp_path, 0)
    assert isinstance(found, Nowhere)
    found.add(0, {"loss": 1.0})
    found.close()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_a_resumed_run_takes_back_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, value in ((0, 1.0), (2, 2.0)):
        found = scalars(tmp_path, start)
        for step in range(start, 4):
            found.add(step, {"loss": value})
        found.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(each.step, each.value) for each in events.Scalars("loss")] == [
        (0, 1.0),
        (1, 1.0),
        (2, 2.0),
        (3, 2.0),
    ]
