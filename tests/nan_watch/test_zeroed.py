"""Parameters that reach the loss only times the number 0, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nan_watch.rules import RULES
from nan_watch.zeroed import Zeroed
from probes.finding import Verdict, judge


class Net(nn.Module):
    """A classifier with a parameter and a head that others may read."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 3)
        self.spare, self.aux = nn.Parameter(torch.ones(8)), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(self.body(x)))
        return out


def of_all(model: nn.Module) -> Tensor:
    return sum((p.sum() for p in model.parameters()), torch.zeros(()))


Extra = Callable[[Any, Tensor], Tensor]

AUX = ["aux.weight", "aux.bias"]
TIMES_ZERO: dict[str, tuple[Extra, list[str]]] = {
    "a parameter": (lambda m, x: (0.0 * m.spare).sum(), ["spare"]),
    "every parameter": (lambda m, x: 0 * of_all(m), ["spare", *AUX]),
    "a term of the loss": (lambda m, x: m.aux(x).mean() * 0.0, AUX),
    "a term that is not yet on": (lambda m, x: m.aux(x).mean() * (len(x) > 99), AUX),
    "a term by alpha": (lambda m, x: torch.add(m.aux(x), m.spare[:1], alpha=0).mean(), ["spare"]),
    "a term in a checkpoint": (
        lambda m, x: checkpoint(lambda x: 0.0 * m.aux(x).mean(), x, use_reentrant=False),
        AUX,
    ),
    "once so and once not": (lambda m, x: (0.0 * m.spare + m.spare).sum(), []),
    "a small number": (lambda m, x: 1e-30 * m.spare.sum(), []),
    "a tensor of zero": (lambda m, x: m.spare.sum() * torch.tensor(0.0), []),
    "a double tensor": (lambda m, x: m.spare.sum() * torch.zeros((), dtype=torch.float64), []),
    "a count of zero": (lambda m, x: m.spare.sum() * (x > 1e9).sum(), []),
    "a mask of zeros": (lambda m, x: (m.spare * torch.zeros(8)).sum(), []),
}


@pytest.mark.parametrize("what", TIMES_ZERO)
def test_what_is_multiplied_by_the_number_0_is_known_by_its_graph(what: str) -> None:
    extra, names = TIMES_ZERO[what]
    model, zeroed, x = Net(), Zeroed(), torch.randn(4, 8)
    zeroed.look([model(x).mean() + extra(model, x)])
    assert zeroed.names(dict(model.named_parameters())) == names


def test_a_factor_that_is_0_in_the_first_step_alone_is_not_one() -> None:
    model, zeroed, x = Net(), Zeroed(), torch.randn(4, 8)
    for step in range(6):
        zeroed.look([model(x).mean() + step * model.aux(x).mean()])
        zeroed.stepped()
    assert zeroed.names(dict(model.named_parameters())) == []


def test_the_look_asks_no_hook_for_what_it_keeps_and_reads_no_device() -> None:
    asked = list[Tensor]()

    def unpack(kept: Tensor) -> Tensor:
        asked.append(kept)
        return kept

    with torch.device("meta"):
        model, x = Net(), torch.randn(4, 8)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
            loss = (model(x) * x[:, :3]).mean() + 0.0 * model.aux(x).mean() + x.sum() * model.spare
    zeroed = Zeroed()
    zeroed.look([loss.sum()])
    assert zeroed.names(dict(model.named_parameters())) == AUX
    assert asked == []


@pytest.mark.parametrize("what", [*TIMES_ZERO][:6])
def test_a_gradient_that_the_code_takes_times_0_is_a_note(
    what: str, record: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, x, y = Net(), torch.randn(16, 8), torch.randint(0, 3, (16,))
    extra, names = TIMES_ZERO[what]
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    run = record(
        tmp_path / "run",
        model,
        optimizer,
        lambda m, i: F.cross_entropy(m(x), y) + extra(m, x),
        steps=20,
    )
    finding = next(f for f in judge(RULES, run).findings if f.code == "GRD003")
    assert (finding.site, finding.verdict) == (names[0], Verdict.NOTE)
    assert "multiplied by the number 0" in finding.message


def test_a_head_that_is_never_opened_is_told_beside_what_is_taken_times_0(
    record: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, x, y = Net(), torch.randn(16, 8), torch.randint(0, 3, (16,))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)

    def loss(m: Any, i: int) -> Tensor:
        dead = F.relu(m.aux(x) - 1e3).mean()
        total: Tensor = F.cross_entropy(m(x), y) + 0.0 * m.spare.sum() + dead
        return total

    run = record(tmp_path / "run", model, optimizer, loss, steps=20)
    finding = next(f for f in judge(RULES, run).findings if f.code == "GRD003")
    assert (finding.site, finding.verdict) == ("aux.weight", Verdict.WARN)
    assert "`spare` is multiplied by the number 0" in finding.message
