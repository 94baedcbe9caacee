"""Trainers with an oddity: watching changes no bit, and a NaN in them is named rightly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils.checkpoint import checkpoint

from nan_watch import NanWatch, PoisonedStep
from nan_watch.hunt import hunt
from probes import Finding, Subject, Verdict
from probes.errors import RequestError

STEPS, SICK = 6, 3
TEXT = Path(__file__).read_text().splitlines()
LINE = next(n for n, text in enumerate(TEXT, 1) if text.endswith("# HERE"))


class Gate(nn.Module):
    """NaN where the input is negative."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log()  # HERE


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()
        self.inner = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.inner(self.gate(x)).tanh()))


Step = Callable[[Any, Tensor, Optimizer], Tensor]


@dataclass(frozen=True)
class Odd:
    """A model, its optimizer, and a whole step of its own."""

    model: Callable[[], nn.Module]
    optimizer: Callable[[nn.Module], Optimizer] = lambda model: Adam(model.parameters(), 0.01)
    step: Step | None = None


def plain_step(model: nn.Module, x: Tensor, optimizer: Optimizer) -> Tensor:
    optimizer.zero_grad()
    loss: Tensor = model(x).square().mean()
    loss.backward()
    optimizer.step()
    return loss


class ChangesItself(Plain):
    """Its own parameters are scaled in every forward pass, as a norm kept by hand is."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.inner.weight.div_(self.inner.weight.norm())
            self.head.bias.neg_()
        return super().forward(x)


class Renormed(Plain):
    """An embedding whose rows are cut to a largest norm when they are read."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 4, max_norm=0.5)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.table(torch.tensor([0, 2])).sum()


class CalledOften(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.gate(x)
        for _ in range(3):
            hidden = self.inner(hidden).tanh()
        return self.head(hidden)


class Quiet(Plain):
    """The birth lies in a section without gradients."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.gate(x)
        return self.head(self.inner(features))


class Sparse(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4, sparse=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gate(x) * self.table(torch.tensor([1, 1, 7])))


class Unused(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.never = nn.Parameter(torch.ones(2))


class Checkpointed(Plain):
    reentrant = False

    def forward(self, x: Tensor) -> Tensor:
        first = self.inner(x).abs() * x.sign()
        hidden = checkpoint(self.block, first, use_reentrant=self.reentrant)
        return self.head(hidden)

    def block(self, x: Tensor) -> Tensor:
        return self.drop(self.gate(x)).tanh()


class CheckpointedReentrant(Checkpointed):
    reentrant = True


class Waves(Plain):
    """Complex parameters, activations and gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.wave = nn.Parameter(torch.randn(4, 4, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.fft(self.gate(x)) @ self.wave
        return self.head(spectrum.abs())


class WholeNumbers(Plain):
    """Integer and boolean tensors go in and come out."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        keep = x.abs() > 0.6
        ids = x.abs().long()
        out = super().forward(x) + (self.inner.weight[0] * ids * keep).sum()
        return {"out": out, "keep": keep, "ids": ids}


class Empty(Plain):
    """A layer gets no row at all, and another no column."""

    def forward(self, x: Tensor) -> Tensor:
        nothing = self.inner(x[:0])
        return super().forward(x) + nothing.sum() + self.drop(x[:, :0]).sum()


class Half(Plain):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x)


def of_a_mapping(model: nn.Module, x: Tensor, optimizer: Optimizer) -> Tensor:
    optimizer.zero_grad()
    loss: Tensor = model(x)["out"].square().mean()
    loss.backward()
    optimizer.step()
    return loss


def accumulated(model: nn.Module, x: Tensor, optimizer: Optimizer) -> Tensor:
    optimizer.zero_grad()
    losses = [model(part * sign).square().mean() / 2 for part, sign in ((x, 1.0), (x, 1.0))]
    for loss in losses:
        loss.backward()
    optimizer.step()
    return sum(losses)  # type: ignore[return-value]


def backward_twice(model: nn.Module, x: Tensor, optimizer: Optimizer) -> Tensor:
    optimizer.zero_grad()
    loss: Tensor = model(x).square().mean()
    loss.backward(retain_graph=True)
    loss.backward()
    optimizer.step()
    return loss


def through_a_gradient(model: Plain, x: Tensor, optimizer: Optimizer) -> Tensor:
    """The loss holds a gradient, as a penalty on it does."""
    optimizer.zero_grad()
    out = model(x).square().mean()
    (slope,) = torch.autograd.grad(out, model.inner.weight, create_graph=True)
    loss: Tensor = out + slope.square().sum()
    loss.backward()
    optimizer.step()
    return loss


def with_a_closure(model: nn.Module, x: Tensor, optimizer: Optimizer) -> Tensor:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(x).square().mean()
        loss.backward()
        return loss

    loss: Tensor = optimizer.step(closure)  # type: ignore[assignment,arg-type]
    return loss


def two_optimizers(model: Plain, x: Tensor, optimizer: Optimizer) -> Tensor:
    """Another one, which is not watched, writes the head before."""
    other = SGD(model.head.parameters(), 0.1)
    model.zero_grad()
    loss: Tensor = model(x).square().mean()
    loss.backward()
    optimizer.step()
    other.step()
    return loss


def sgd(model: nn.Module) -> Optimizer:
    return SGD(model.parameters(), 0.1, momentum=0.9)


def of_the_rest(model: Any) -> Optimizer:
    return AdamW(model.inner.parameters(), 0.01)


ODD = {
    "plain": Odd(Plain),
    "changes-its-parameters": Odd(ChangesItself),
    "max-norm": Odd(Renormed),
    "called-often-and-never": Odd(CalledOften),
    "no-grad-section": Odd(Quiet),
    "sparse-gradients": Odd(Sparse, sgd),
    "no-gradient": Odd(Unused),
    "checkpoint": Odd(Checkpointed),
    "checkpoint-reentrant": Odd(CheckpointedReentrant),
    "complex": Odd(Waves),
    "integers-and-booleans": Odd(WholeNumbers, step=of_a_mapping),
    "empty": Odd(Empty),
    "bf16-autocast": Odd(Half),
    "accumulation": Odd(Plain, step=accumulated),
    "backward-twice": Odd(Plain, step=backward_twice),
    "gradient-penalty": Odd(Plain, step=through_a_gradient),
    "closure": Odd(Plain, sgd, step=with_a_closure),
    "two-optimizers": Odd(Plain, of_the_rest, step=two_optimizers),
}


def batches(sick: bool) -> list[Tensor]:
    chance = torch.Generator().manual_seed(0)
    xs = [0.5 + torch.rand(3, 4, generator=chance) for _ in range(STEPS)]
    if sick:
        xs[SICK][1, 2] = -1.0
    return xs


def fed(watch: NanWatch, xs: list[Tensor], step: Callable[[Tensor], Tensor]) -> None:
    for x in xs:
        watch.step(lambda x=x: step(x), batch={"x": x})  # type: ignore[misc]


def trained(odd: Odd, folder: Path | None) -> list[Tensor]:
    """Parameters, buffers, optimizer state and random state at the end of the healthy run."""
    torch.manual_seed(0)
    model = odd.model()
    optimizer, step = odd.optimizer(model), odd.step or plain_step
    if folder is None:
        for x in batches(sick=False):
            step(model, x, optimizer)
    else:
        with NanWatch(model, optimizer, out=folder) as watch:
            fed(watch, batches(sick=False), lambda x: step(model, x, optimizer))
        assert [each for each in watch.findings if each.verdict is not Verdict.NOTE] == []
        assert watch.steps == STEPS
    state = [v for each in optimizer.state.values() for v in each.values() if v is not None]
    ends = [*model.state_dict().values(), *state, torch.get_rng_state()]
    return [each.to_dense() if each.is_sparse else each for each in ends]


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_a_healthy_one_is_not_changed_by_a_bit_and_nothing_is_said(odd: Odd) -> None:
    bare, seen = trained(odd, None), trained(odd, Path("run"))
    assert len(bare) == len(seen) > 4
    assert all(map(torch.equal, bare, seen))


def check(finding: Finding) -> None:
    assert (finding.site, finding.phase) == ("gate", "forward"), finding.message
    assert (finding.op, finding.step) == ("aten.log", SICK), finding.message
    assert finding.source is not None
    assert finding.source.endswith(f"test_bad_input.py:{LINE}")
    assert finding.samples == (1,)
    assert {each.value for each in finding.evidence if "repeats" in each.what} == {"to the bit"}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_a_sick_one_is_named_through_step(odd: Odd) -> None:
    torch.manual_seed(0)
    model = odd.model()
    optimizer, step = odd.optimizer(model), odd.step or plain_step
    with pytest.raises(PoisonedStep) as caught, NanWatch(model, optimizer) as watch:
        fed(watch, batches(sick=True), lambda x: step(model, x, optimizer))
    check(caught.value.finding)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_a_sick_one_is_named_by_a_hunt(odd: Odd) -> None:
    torch.manual_seed(0)

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return model(batch["x"]).square().mean()

    def train_step(model: nn.Module, batch: dict[str, Tensor], optimizer: Optimizer) -> Tensor:
        assert odd.step is not None
        return odd.step(model, batch["x"], optimizer)

    xs = [{"x": x} for x in batches(sick=True)]
    own = train_step if odd.step else None
    subject = Subject(odd.model(), xs, loss, odd.optimizer, train_step=own)
    finding = hunt(subject, 50).judgement.findings[0]
    check(finding)
    assert finding.batch == SICK


def test_a_step_that_raises_goes_through_and_leaves_nothing_behind() -> None:
    model = Plain()
    optimizer = sgd(model)
    xs = batches(sick=False)

    def stumble(x: Tensor) -> Tensor:
        (1e6 * model(x)).sum().backward()
        raise KeyError("x")

    with NanWatch(model, optimizer) as watch:
        watch.step(lambda: plain_step(model, xs[0], optimizer))
        with pytest.raises(KeyError, match="x"):
            watch.step(lambda: stumble(1e9 * xs[1]))
        watch.step(lambda: plain_step(model, xs[2], optimizer))
    assert watch.findings == ()
    output = watch.run.matrix("output", "abs_max")
    assert output.values[:, output.sites.index("gate")].max() < 1
    assert not any(module._forward_hooks for module in model.modules())


def test_a_lazy_module_is_watched_from_its_first_step() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with NanWatch(model, optimizer) as watch:
        fed(watch, batches(sick=False), lambda x: plain_step(model, x, optimizer))
    assert watch.steps == STEPS
    assert [f for f in watch.findings if f.verdict is not Verdict.NOTE] == []


def test_lbfgs_is_refused_by_a_hunt_with_a_sentence() -> None:
    subject = Subject(
        Plain(),
        [{"x": x} for x in batches(sick=False)],
        lambda model, batch: model(batch["x"]).square().mean(),
        lambda model: torch.optim.LBFGS(model.parameters()),
    )
    with pytest.raises(RequestError, match="is an LBFGS, which computes the loss several times"):
        hunt(subject, 3)
