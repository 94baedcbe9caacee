"""What leads to a NaN is told before it as a warning, and with it as evidence."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nan_watch import NanWatch, PoisonedStep
from nan_watch.growth import climb
from nan_watch.rules.nearing_edge import NearingEdge
from nan_watch.rules.steady_growth import SteadyGrowth
from nan_watch.sampled.edges import Edge, Edges
from probes import Finding
from probes.finding import judge
from probes.run import Run

RULES = (SteadyGrowth(), NearingEdge())
X = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(32) % 3
ROWS = torch.arange(32)
HOT = F.one_hot(Y, 3).float()
Loss = Callable[[nn.Module, int], Tensor]


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))


def run(loss: Loss, steps: int = 200, model: nn.Module | None = None, lr: float = 1e-2) -> Run:
    model = mlp() if model is None else model
    optimizer = torch.optim.Adam(model.parameters(), lr)
    with NanWatch(model, optimizer) as watch:
        fed(watch, model, optimizer, loss, steps)
    return watch.run


def fed(
    watch: NanWatch, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, steps: int
) -> None:
    for step in range(steps):
        train(watch, model, optimizer, loss, step)


def train(
    watch: NanWatch, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, step: int
) -> None:
    def whole() -> Tensor:
        optimizer.zero_grad()
        value = loss(model, step)
        watch.backward(value)
        optimizer.step()
        return value

    watch.step(whole)


HEALTHY: dict[str, Loss] = {
    "log-of-the-right-class": lambda m, i: -m(X).softmax(-1)[ROWS, Y].log().mean(),
    "log-softmax": lambda m, i: F.nll_loss(F.log_softmax(m(X), -1), Y),
    "log-of-all-classes": lambda m, i: -(HOT * m(X).softmax(-1).log()).sum(-1).mean(),
    "log-plus-eps": lambda m, i: -(HOT * (m(X).softmax(-1) + 1e-8).log()).sum(-1).mean(),
    "log-clamped": lambda m, i: -(HOT * m(X).softmax(-1).clamp(min=1e-7).log()).sum(-1).mean(),
    "root-of-the-mean": lambda m, i: (m(X) - HOT).square().mean().sqrt(),
    "distances": lambda m, i: (m(X) - HOT).square().sum(-1).sqrt().mean(),
    "softmax-by-hand": lambda m, i: -(m(X).exp() / m(X).exp().sum(-1, True))[ROWS, Y].log().mean(),
    "temperature": lambda m, i: F.cross_entropy(m(X) / torch.tensor(max(0.1, 0.9**i)), Y),
    "warm-up": lambda m, i: F.cross_entropy(m(X), Y) * min(1.0, 2.0 ** (i - 30)),
    "log-of-a-mask": lambda m, i: (
        F.cross_entropy(m(X) + torch.tensor([1.0, 1.0, 1.0]).log(), Y)
        + torch.tensor([0.0, 1.0]).log().exp().sum()
    ),
}


@pytest.mark.parametrize("loss", HEALTHY.values(), ids=HEALTHY)
def test_nothing_is_said_of_a_healthy_loss(loss: Loss) -> None:
    assert judge(RULES, run(loss)).findings == ()


def test_five_samples_memorised_for_long_grow_no_edge() -> None:
    found = judge(RULES, run(lambda m, i: F.cross_entropy(m(X[:5]), Y[:5]), 600, lr=0.1))
    assert found.findings == ()


class Half(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 3)
        self.factor, self.scale = factor, 1.0

    def forward(self, x: Tensor) -> Tensor:
        self.scale *= self.factor
        with torch.autocast("cpu", torch.float16):
            out = self.inner(x) * self.scale
        return F.layer_norm(out.float(), (3,))


def finding_of(found: Run) -> Finding:
    (finding,) = judge((NearingEdge(),), found).findings
    return finding


def test_half_precision_near_its_range_is_told_and_a_steady_one_is_not() -> None:
    loss: Loss = lambda m, i: F.cross_entropy(m(X), Y)  # noqa: E731
    finding = finding_of(run(loss, 80, Half(2 ** (1 / 7)), lr=0.0))
    assert finding.message.startswith("the largest number in float16 at ")
    assert judge(RULES, run(loss, 80, Half(1.0), lr=0.0)).findings == ()


def test_an_exponent_that_rises_is_told_with_its_line_and_when() -> None:
    def loss(model: nn.Module, step: int) -> Tensor:
        return (model(X).tanh() * 0.1 + step).exp().log().mean()

    finding = finding_of(run(loss, 80, lr=0.0))
    assert finding.op == "aten.exp"
    assert finding.source == Edge("", finding.source or "", torch.float32).source
    assert (finding.source or "").rpartition(":")[0].endswith("test_before.py")
    assert finding.evidence[-1].value == 24  # from 64 on: exp(88.7) is the largest
    assert (finding.step, finding.phase) == (64, "forward")


def test_divisors_and_roots_that_halve_are_told_and_what_is_warned_of_comes() -> None:
    def loss(model: nn.Module, step: int) -> Tensor:
        return F.cross_entropy(model(X) * 2.0**-step / torch.tensor(2.0**-step), Y)

    assert finding_of(run(loss, 100, lr=0.0)).message.startswith("the smallest divisor of aten.div")


def test_the_trend_of_its_line_is_among_the_evidence_of_a_nan() -> None:
    def loss(model: nn.Module, step: int) -> Tensor:
        shrinks = torch.tensor(2.0 ** -min(4 * step, 149 + step), dtype=torch.float32)
        return F.cross_entropy(model(X), Y) + 0 * shrinks.log()

    with pytest.raises(PoisonedStep) as caught:
        run(loss, 100)
    finding = caught.value.finding
    assert finding.op in ("aten.log", "aten.mul")
    told = {e.step: e.value for e in finding.evidence if e.what.startswith("smallest argument of")}
    assert told == {1: 2.0**-4, 2: 2.0**-8, 4: 2.0**-16, 8: 2.0**-32, 16: 2.0**-64, 32: 2.0**-128}


def test_a_steady_growth_is_among_the_evidence_of_an_overflow() -> None:
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.9)
    loss: Loss = lambda m, i: m(X).square().mean()  # noqa: E731
    watch = NanWatch(model, optimizer)
    with pytest.raises(PoisonedStep) as caught, watch:
        fed(watch, model, optimizer, loss, 1000)
    (growth,) = (e for e in caught.value.finding.evidence if e.what.startswith("the loss grew"))
    assert growth.unit == "a step, over the last 8"
    assert 2 < float(growth.value or 0) < 20
    assert judge(RULES, watch.run).findings == ()  # the finding has told it


def test_a_climb_is_steady_or_none() -> None:
    steps = np.arange(40)
    line = climb(steps, 2.0 * steps, 10)
    assert line is not None
    assert (line.slope, line.rise, line.first) == (2.0, 78.0, 0)
    bent = climb(steps, np.log2(1.0 + steps), 10)  # a power of the step
    assert bent is not None
    assert bent.rise < 1.0  # it is straight over its last half alone
    assert climb(steps, np.zeros(40), 10) is None
    late = climb(steps, np.where(steps < 20, 0.0, steps - 20.0), 10)
    assert late is not None
    assert late.first >= 18
    assert climb(steps, np.where(steps == 39, np.inf, steps), 10) is None


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_nothing_is_looked_at_where_something_is_compiled() -> None:
    model = nn.Linear(2, 2)
    model.compile()
    edges = Edges(model)
    with edges.looking(4):
        model.weight.exp()
        assert edges.waiting() == []
    edges = Edges(nn.Linear(2, 2))
    for step, seen in ((0, 0), (3, 0), (4, 1)):
        with edges.looking(step):
            model.weight.exp()
            assert len(edges.waiting()) == seen


def test_bits_are_counted_to_the_edge_of_the_dtype() -> None:
    log = Edge("smallest argument of aten.log", "a.py:1", torch.float32)
    assert log.bits_left(1.0) == 126
    assert log.bits_left(1e-45) == log.bits_left(0.0) == 0
    exp = Edge("largest argument of aten.exp", "a.py:1", torch.float64)
    assert exp.bits_left(0.0) == pytest.approx(1024)
    assert exp.bits_left(math.inf) == 0
    half = Edge("largest number in float16", "a.py:1", torch.float16)
    assert half.bits_left(65504.0) == 0
    assert half.bits_left(0.0) == pytest.approx(16, abs=1e-3)
