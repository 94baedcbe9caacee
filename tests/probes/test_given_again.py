from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.experiment import LOSS, Experiment
from probes.given_again import given_again

Batch = dict[str, Tensor]


class Counted(nn.Module):
    """Counts its calls outside of itself; `kind` is what a call leaves behind or hangs on."""

    calls = 0

    def __init__(self, kind: str = "") -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.kind = kind
        self.seen: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        Counted.calls += 1
        if self.kind == "remembers":
            self.seen.append(float(x.sum()))
        out: Tensor = self.linear(x)
        return F.dropout(out, 0.5) if self.kind == "draws" else out


@pytest.mark.parametrize(
    ("kind", "passes"), [("", 1), ("remembers", 2), ("draws", 2), ("written", 2), ("cut", 2)]
)
def test_predict_and_loss_of_a_batch_share_a_pass_that_leaves_no_trace(
    kind: str, passes: int
) -> None:
    torch.manual_seed(0)

    def predict(model: nn.Module, batch: Batch) -> Tensor:
        with torch.set_grad_enabled(kind != "cut"):
            out: Tensor = model(batch["x"])
        return out.mul_(2) if kind == "written" else out

    subject = Subject(
        Counted(kind),
        [{"x": torch.randn(4, 3), "y": torch.tensor([0, 1, 0, 1])}],
        lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        predict=predict,
    )
    experiment = Experiment.of(subject)
    _, Counted.calls = experiment.evaluated, 0
    again = experiment.evaluate(experiment.batch).outputs
    assert Counted.calls == passes
    own, x = subject.model.linear, experiment.batch["x"]
    assert isinstance(own, nn.Linear)
    if kind != "draws":
        assert again[LOSS] == F.cross_entropy(own(x), experiment.batch["y"])
    assert "forward" not in vars(subject.model)


def test_a_loss_that_needs_a_graph_of_its_own_gets_it() -> None:
    model = nn.Linear(3, 1)

    def twice(x: Tensor) -> list[Tensor]:
        return [torch.autograd.grad(model(x).sum(), model.weight)[0] for _ in range(2)]

    with given_again(model) as spared, pytest.raises(RuntimeError, match="second time"):
        twice(torch.ones(2, 3))
    assert spared.count == 1
    subject = Subject(
        model,
        [{"x": torch.ones(2, 3)}],
        lambda model, batch: twice(batch["x"])[0].sum() + model(batch["x"]).sum(),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        predict=lambda model, batch: model(batch["x"]),
    )
    experiment = Experiment.of(subject)
    assert float(experiment.evaluate(experiment.batch).outputs[LOSS]) == pytest.approx(
        6 + model(torch.ones(2, 3)).sum().item()
    )
