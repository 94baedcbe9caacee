"""Readings as TensorBoard's events, with a NaN among them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from nan_watch import NanWatch
from probes.command import main
from reports.tensorboard import write_events


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_scalars_and_histograms_survive_a_nan(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with NanWatch(model, optimizer, on_poison="skip", out=tmp_path / "run") as watch:
        for factor in (1.0, float("nan")):
            optimizer.zero_grad()
            watch.backward((model(torch.ones(3, 2)) * factor).sum())
            optimizer.step()
    with pytest.raises(SystemExit) as ended:
        main(["render", str(tmp_path / "run"), "--format", "tensorboard"])
    assert ended.value.code == 0
    count = write_events(watch.run, tmp_path / "events")
    assert len(list((tmp_path / "run" / "events").glob("events.*"))) == 1
    read = EventAccumulator(str(tmp_path / "events"))
    read.Reload()
    norms = [event.value for event in read.Scalars("param_grad/norm/0.weight")]
    assert math.isfinite(norms[0])
    assert math.isnan(norms[1])
    odd = [event.value for event in read.Scalars("param_grad/norm/not finite")]
    assert odd == [0, 4]
    assert len(read.Histograms("param_grad/norm")) == 1
    assert sum(len(read.Scalars(tag)) for tag in read.Tags()["scalars"]) == count
