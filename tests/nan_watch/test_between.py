"""A loop that writes parameters between its steps: what it runs there is run again, and named."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nan_watch import NanWatch, PoisonedStep
from probes.finding import Finding

STEPS, EVERY = 12, 4

Watch = Callable[[nn.Module, torch.optim.Optimizer], Any]


def line(mark: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    [number] = [i for i, text in enumerate(lines, 1) if text.endswith(f"# HERE {mark}")]
    return f"{__file__}:{number}"


def batches(steps: int = STEPS) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        yield torch.randn(8, 4, generator=generator), torch.arange(8) % 3


class Codes(nn.Module):
    """Refreshed by the means of what is nearest, over those that are counted."""

    def __init__(self, least: float) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(4, 2), nn.Linear(2, 3)
        self.codebook = nn.Parameter(torch.randn(6, 2))
        self.least, self.last = least, torch.zeros(0, 2)

    def forward(self, rows: Tensor) -> Tensor:
        given = self.encode(rows)
        self.last = given.detach()
        nearest = self.codebook[torch.cdist(given, self.codebook).argmin(1)]
        return self.decode(nearest + given - given.detach())

    @torch.no_grad()
    def refresh(self, given: Tensor) -> None:
        chosen = F.one_hot(torch.cdist(given, self.codebook).argmin(1), 6).to(given.dtype)
        counts = chosen.sum(0).clamp(min=self.least)
        self.codebook.copy_((chosen.t() @ given) / counts[:, None])  # HERE means


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05)


def descend(model: nn.Module, optimizer: torch.optim.Optimizer, rows: Tensor, at: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(rows), at).backward()
    optimizer.step()


def refreshed(watch: Watch, least: float = 0.0) -> nn.Module:
    """A list that is emptied by what reads it."""
    model = Codes(least)
    optimizer, recent = sgd(model), []
    with watch(model, optimizer):
        for rows, labels in batches():
            descend(model, optimizer, rows, labels)
            recent.append(rows)
            if len(recent) == EVERY:
                model.refresh(model.encode(torch.cat(recent)))
                recent.clear()
    return model


def by_attribute(watch: Watch, least: float = 0.0) -> nn.Module:
    """What the model itself keeps of its last call."""
    model = Codes(least)
    optimizer = sgd(model)
    with watch(model, optimizer):
        for rows, labels in batches():
            descend(model, optimizer, rows, labels)
            model.refresh(model.last)
    return model


def pruned(model: nn.Module, share: float, eps: float) -> None:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            kept = (parameter.detach().abs() > share).float()
            parameter.data.mul_(kept / (kept.mean() + eps))  # HERE kept


def after_epochs(watch: Watch, eps: float = 0.0) -> nn.Module:
    """In the outer of two loops."""
    model = net()
    optimizer = sgd(model)
    with watch(model, optimizer):
        for epoch in range(4):
            for rows, labels in batches(3):
                descend(model, optimizer, rows, labels)
            pruned(model, 0.8 * epoch, eps)
    return model


def before_the_forward(watch: Watch, eps: float = 0.0) -> nn.Module:
    """At the head of a loop that takes its batches by `next`."""
    model, left, given = net(), STEPS, batches()
    optimizer = sgd(model)
    with watch(model, optimizer):
        while left > 0:
            rows, labels = next(given)
            with torch.no_grad():
                weight = model[0].weight
                weight /= weight.norm(dim=1, keepdim=True) * (left > EVERY) + eps  # HERE weight
            descend(model, optimizer, rows, labels)
            left -= 1
    return model


class Trainer:
    """Keeps what it has seen."""

    def __init__(self, watch: Watch, eps: float = 0.0) -> None:
        self.model, self.watch, self.eps = net(), watch, eps
        self.optimizer = sgd(self.model)
        self.seen: list[Tensor] = []

    def fit(self) -> nn.Module:
        with self.watch(self.model, self.optimizer):
            for rows, labels in batches():
                self.step(rows, labels)
        return self.model

    def step(self, rows: Tensor, labels: Tensor) -> None:
        descend(self.model, self.optimizer, rows, labels)
        self.seen.append(rows[:, :1].expand(-1, 4) * 0)
        if len(self.seen) == EVERY:
            self.rescale(torch.cat(self.seen).std(0) + self.eps)
            self.seen = []

    @torch.no_grad()
    def rescale(self, spread: Tensor) -> None:
        self.model[0].weight.copy_(self.model[0].weight / spread)  # HERE spread


def by_a_trainer(watch: Watch, eps: float = 0.0) -> nn.Module:
    return Trainer(watch, eps).fit()


def clipped(watch: Watch) -> nn.Module:
    model = net()
    optimizer = sgd(model)
    with watch(model, optimizer):
        for rows, labels in batches():
            descend(model, optimizer, rows, labels)
            for parameter in model.parameters():
                parameter.data.clamp_(-0.1, 0.1)
    return model


def averaged(watch: Watch) -> nn.Module:
    model = net()
    mean, optimizer = copy.deepcopy(model), sgd(model)
    with watch(model, optimizer):
        for rows, labels in batches():
            descend(model, optimizer, rows, labels)
            with torch.no_grad():
                for one, two in zip(mean.parameters(), model.parameters(), strict=True):
                    one.lerp_(two, 0.1)
    return mean


def projected(watch: Watch) -> nn.Module:
    model = net()
    optimizer = sgd(model)
    with watch(model, optimizer):
        for rows, labels in batches():
            descend(model, optimizer, rows, labels)
            with torch.no_grad():
                weight = model[0].weight
                weight.div_(torch.linalg.matrix_norm(weight, 2).clamp(min=1.0))
                weight.add_(1e-3 * torch.randn_like(weight))
    return model


SICK = {
    refreshed: ("means", "codebook", EVERY - 1),
    by_attribute: ("means", "codebook", 0),
    after_epochs: ("kept", "0.weight", 5),
    before_the_forward: ("weight", "0.weight", STEPS - EVERY - 1),
    by_a_trainer: ("spread", "0.weight", EVERY - 1),
}


def watched(into: list[NanWatch], **how: Any) -> Watch:
    def watch(model: nn.Module, optimizer: torch.optim.Optimizer) -> NanWatch:
        into.append(NanWatch(model, optimizer, **how))
        return into[-1]

    return watch


def refused(loop: Callable[[Watch], Any]) -> Finding:
    torch.manual_seed(0)
    with pytest.raises(PoisonedStep) as caught:
        loop(watched([]))
    return caught.value.finding


@pytest.mark.parametrize("loop", SICK)
def test_the_line_that_writes_is_named(loop: Callable[[Watch], Any]) -> None:
    mark, site, step = SICK[loop]
    finding = refused(loop)
    assert (finding.source, finding.phase, finding.step) == (line(mark), "update", step)
    assert finding.op is not None
    assert finding.op.removesuffix("_") == "aten.div"
    assert finding.site in (site, "model", "<model>")
    assert "in the code after the update of step" in finding.message
    assert any(
        each.what == "what the loop does after the update, run again" for each in finding.evidence
    )


def test_what_the_lines_change_is_as_the_loop_left_it() -> None:
    seen: list[Any] = []
    torch.manual_seed(0)
    trainer = Trainer(watched([]))
    seen, before = trainer.seen, torch.get_rng_state()
    with pytest.raises(PoisonedStep):
        trainer.fit()
    assert len(seen) == EVERY
    assert not trainer.seen
    assert not trainer.model[0].weight.isfinite().all()
    assert torch.equal(before, torch.get_rng_state())


def test_nothing_is_run_again_where_the_loop_goes_on() -> None:
    torch.manual_seed(0)
    watches: list[NanWatch] = []
    refreshed(watched(watches, on_poison="allow"))
    assert watches[0].findings[0].code == "NAN017"


@pytest.mark.parametrize(
    "loop",
    [
        clipped, averaged, projected, *(lambda w, f=f: f(w, 1.0) for f in SICK),
    ],
)  # fmt: skip
def test_healthy_loops_are_left_alone(loop: Callable[[Watch], nn.Module]) -> None:
    torch.manual_seed(0)
    bare = loop(lambda *_: torch.enable_grad())
    drawn = torch.rand(1)
    torch.manual_seed(0)
    watches: list[NanWatch] = []
    model = loop(watched(watches))
    assert torch.equal(drawn, torch.rand(1))
    assert not [each for each in watches[0].findings if each.code.startswith("NAN")]
    for one, two in zip(bare.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, two)


class Lagging(nn.Module):
    """A teacher in halves, which no step trains."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.student, self.teacher = net(), net().half().requires_grad_(False)
        self.factor, self.taken = factor, 0

    def forward(self, rows: Tensor) -> Tensor:
        return self.student(rows) + self.teacher(rows.half()).float()

    @torch.no_grad()
    def follow(self) -> None:
        self.taken += 1
        for mean, own in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            mean.mul_(0.9).add_(own.half(), alpha=0.1)
            mean.mul_(self.factor if self.taken > EVERY else 1.0)  # HERE lagging


def followed(watch: Watch, factor: float) -> nn.Module:
    model = Lagging(factor)
    optimizer = sgd(model.student)
    with watch(model, optimizer):
        for rows, labels in batches():
            descend(model, optimizer, rows, labels)
            model.follow()
    return model


def test_a_moving_average_that_outgrows_halves_is_named_where_it_is_written() -> None:
    with pytest.raises(PoisonedStep) as caught:
        followed(NanWatch, 6e4)
    finding = caught.value.finding
    assert (finding.code, finding.phase, finding.op) == ("NAN014", "update", "aten.mul_")
    assert (finding.source, finding.step) == (line("lagging"), EVERY + 1)
