"""Terms of a loss of which one is far larger before the first steps, and after them or not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]


class Two(nn.Module):
    """loud: times what the layers give goes into the head of `value`, which begins far off."""

    def __init__(self, loud: float) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.kind, self.value, self.loud = nn.Linear(32, 3), nn.Linear(32, 1), loud

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        given = self.body(x)
        return self.kind(given), self.value(self.loud * given)[:, 0]


def subject(loud: float, share: float, rate: float) -> Subject:
    """share: by what the mean of `kind` is multiplied."""

    def kind(model: nn.Module, batch: Batch) -> Tensor:
        return share * F.cross_entropy(model(batch["x"])[0], batch["labels"])

    def value(model: nn.Module, batch: Batch) -> Tensor:
        return F.mse_loss(model(batch["x"])[1], batch["wanted"])

    seed_everything(0)
    batches = []
    for _ in range(4):
        x = torch.randn(16, 12)
        batches.append({"x": x, "labels": x[:, :3].argmax(1), "wanted": x[:, 0].tanh()})
    return Subject(
        Two(loud),
        batches,
        lambda model, batch: kind(model, batch) + value(model, batch),
        lambda model: torch.optim.Adam(model.parameters(), lr=rate),
        predict=lambda model, batch: dict(zip(("kind", "value"), model(batch["x"]), strict=True)),
        parts={"kind": kind, "value": value},
    )


@pytest.mark.parametrize(
    ("loud", "share", "rate", "verdict", "told"),
    [
        (20.0, 1.0, 1e-2, Verdict.NOTE, "the gradient of `value` begins "),
        (20.0, 1e-4, 1e-2, Verdict.WARN, "`value` drowns `kind`: "),
        (1.0, 1e-3, 3e-3, Verdict.WARN, "`value` drowns `kind`: "),
        (20.0, 1.0, 0.0, Verdict.WARN, "`value` drowns `kind`: "),  # the start is all there is
    ],
)
def test_a_term_that_comes_down_with_the_first_steps_drowns_none(
    loud: float, share: float, rate: float, verdict: Verdict, told: str
) -> None:
    two = subject(loud, share, rate)
    before = {name: each.clone() for name, each in two.model.state_dict().items()}
    (one,) = check(two, chosen(["WIR015"])).findings
    assert (one.verdict, one.message.startswith(told)) == (verdict, True), one.message
    assert all(torch.equal(each, before[name]) for name, each in two.model.state_dict().items())
