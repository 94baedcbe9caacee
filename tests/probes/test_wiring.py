"""Wiring that is no case of its own: what is said of it, where, and what is left unsaid."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR, LambdaLR

from probes import Layout, Reads, Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Map = Callable[[Tensor], Tensor]


class Between(nn.Module):
    """Something between two layers."""

    def __init__(self, function: Map) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Net(nn.Module):
    def __init__(self, between: Map) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 16)
        self.between = Between(between)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.between(self.encoder(x)))
        return logits


def found(code: str, between: Map, loss: Callable[[nn.Module, Batch], Tensor]) -> list[Finding]:
    seed_everything(0)
    chance = torch.Generator().manual_seed(0)
    batch = {"x": torch.randn(12, 8, generator=chance), "labels": torch.arange(12) % 3}
    subject = Subject(
        Net(between), [batch], loss, lambda m: torch.optim.Adam(m.parameters(), lr=1e-3)
    )
    return list(check(subject, chosen([code])).findings)


def entropy(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["labels"])


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -0.5 * grad


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def by_data(x: Tensor) -> Tensor:
    return x / x.data.norm(dim=1, keepdim=True)


def by_item(x: Tensor) -> Tensor:
    return torch.tanh(x / x.std().item())


def by_copy(x: Tensor) -> Tensor:
    return x * torch.tensor(x.tolist()).tanh()


def without_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x.tanh()


@pytest.mark.parametrize("between", [by_data, by_item, by_copy, without_gradient])
def test_what_cuts_the_way_back_is_followed_to_its_module(between: Map) -> None:
    (one,) = found("WIR011", between, entropy)
    assert (one.verdict, one.site, one.phase) == (Verdict.WARN, "between", "backward")
    if between in (by_data, without_gradient):
        assert one.source is not None
        line = between.__code__.co_firstlineno + 1
        assert one.source.endswith(f"test_wiring.py:{line}")


@pytest.mark.parametrize(
    ("between", "words"),
    [
        (Reversed.apply, "-0.5 times the derivative, a reversal"),
        (Rounded.apply, "a straight-through estimator"),
        (lambda x: F.gumbel_softmax(x, hard=True), "a straight-through estimator"),
        (lambda x: x + x.detach() * x.sigmoid(), "`detach` cuts one of its ways back"),
    ],
)
def test_a_backward_that_is_made_up_on_purpose_is_a_note(between: Map, words: str) -> None:
    (one,) = found("WIR011", between, entropy)
    assert one.verdict is Verdict.NOTE
    assert words in one.message


def without_its_term(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(batch["x"])
    with torch.no_grad():  # cut off
        whole = logits.logsumexp(1)
    return (whole - logits.gather(1, batch["labels"][:, None])[:, 0]).mean()


def detached_term(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(batch["x"])
    return logits.square().mean() + 0.1 * logits.exp().sum(1).log().mean().detach()  # cut off


def drawn(model: nn.Module, batch: Batch) -> Tensor:
    mean = model.encoder(batch["x"])  # type: ignore[operator]
    logits = model.head(torch.distributions.Normal(mean, 1.0).sample())  # type: ignore[operator] # cut off
    return F.cross_entropy(logits, batch["labels"]) + 0.1 * mean.square().mean()


@pytest.mark.parametrize("loss", [without_its_term, detached_term, drawn])
def test_a_term_without_a_gradient_is_a_warning_at_its_line(
    loss: Callable[[nn.Module, Batch], Tensor],
) -> None:
    (one,) = found("WIR011", torch.tanh, loss)
    lines, first = inspect.getsourcelines(loss)
    at = first + next(i for i, line in enumerate(lines) if "# cut off" in line)
    assert one.verdict is Verdict.WARN
    assert (one.source or "").endswith(f"test_wiring.py:{at}")


class Summed(nn.Module):
    """Embeddings of the first places, summed."""

    def __init__(self, places: int) -> None:
        super().__init__()
        self.ids, self.kinds, self.places = nn.Embedding(30, 8), nn.Embedding(2, 8), places

    def forward(self, ids: Tensor, kinds: Tensor) -> Tensor:
        read = self.ids(ids) + self.kinds(kinds)
        logits: Tensor = read[:, : self.places].sum(1)
        return logits


@pytest.mark.parametrize(("places", "verdicts"), [(9, ["note"]), (6, ["warn", "note", "note"])])
def test_places_that_nobody_reads_are_told_key_by_key(places: int, verdicts: list[str]) -> None:
    seed_everything(0)
    ids = torch.randint(30, (6, 9), generator=torch.Generator().manual_seed(0))
    batch = {"ids": ids, "kinds": ids % 2, "labels": ids[:, 0] % 3, "row": ids + 1, "url": ids * 2}
    subject = Subject(
        Summed(places),
        [batch],
        lambda model, b: F.cross_entropy(model(b["ids"], b["kinds"]), b["labels"]),
        lambda model: torch.optim.Adam(model.parameters()),
        layout=Layout(reads=(Reads("output", of="ids", rule="all"),)),
    )
    told = check(subject, chosen(["WIR007"])).findings
    assert [one.verdict.value for one in told] == verdicts
    unread = next(one for one in told if "`row` and `url`" in one.message)
    assert unread.verdict is Verdict.NOTE
    if places < 9:
        assert "nobody reads 3 of 9 places of `ids`" in told[0].message


class Shares(nn.Module):
    """Weighs two layers by shares that a router gives."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.router, self.how = nn.Linear(8, 2, bias=False), how
        self.shift = nn.Parameter(torch.zeros(1, 4))
        self.one, self.two = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "shifted":
            share = (self.router(x) + self.shift.sum()).softmax(-1)
        else:
            best, at = self.router(x).softmax(-1).max(-1, keepdim=True)
            best = best / best if self.how == "by itself" else best
            share = torch.zeros(len(x), 2).scatter(1, at, best)
        out: Tensor = share[:, :1] * self.one(x) + share[:, 1:] * self.two(x)
        return out


@pytest.mark.parametrize(
    ("how", "sites"), [("by itself", ["router"]), ("as it is", []), ("shifted", [])]
)
def test_a_matrix_whose_gradient_is_rounding_is_told(how: str, sites: list[str]) -> None:
    seed_everything(0)
    batch = {"x": torch.randn(12, 8), "labels": torch.arange(12) % 3}
    subject = Subject(Shares(how), [batch], entropy, adam)
    assert [one.site for one in check(subject, chosen(["WIR018"])).findings] == sites


def shown_instead(model: nn.Module, batch: Batch) -> Tensor:
    apart = (model(batch["x"]) - 1).abs()
    learned = apart.square().mean()
    return learned + (apart.mean() - learned).detach()


def own_target(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch["x"]) - model(0.9 * batch["x"]).detach()).abs().mean()


def policy(model: nn.Module, batch: Batch) -> Tensor:
    acts = torch.distributions.Normal(model(batch["x"]), 1.0)
    act = acts.sample()
    return (acts.log_prob(act).sum(1) * act.square().sum(1)).mean()


def critic(model: nn.Module, batch: Batch) -> Tensor:
    acts = torch.distributions.Normal(model.encoder(batch["x"]), 1.0)  # type: ignore[operator]
    value, wanted = model.head(acts.sample()), model.head(acts.rsample())  # type: ignore[operator]
    return F.cross_entropy(value, batch["labels"]) - wanted.mean()


@pytest.mark.parametrize("loss", [shown_instead, own_target, policy, critic])
def test_what_is_cut_off_on_purpose_is_a_note(
    loss: Callable[[nn.Module, Batch], Tensor],
) -> None:
    (one,) = found("WIR011", torch.tanh, loss)
    assert one.verdict is Verdict.NOTE


@pytest.mark.parametrize("between", [F.relu, F.dropout, lambda x: x.amax(1, True) * x.abs()])
def test_kinks_and_draws_are_no_false_alarm(between: Map) -> None:
    assert found("WIR011", between, entropy) == []


def picked(logs: Map) -> Callable[[nn.Module, Batch], Tensor]:
    return lambda model, batch: F.nll_loss(logs(model(batch["x"])), batch["labels"])


def rated(rate: Map) -> Callable[[nn.Module, Batch], Tensor]:
    return lambda model, batch: F.poisson_nll_loss(rate(model(batch["x"])[:, 0]), batch["labels"])


@pytest.mark.parametrize(
    ("code", "loss", "verdict"),
    [
        ("WIR012", picked(lambda x: x.softmax(-1).log()), Verdict.WARN),
        ("WIR012", picked(lambda x: (1 - torch.sigmoid(x)).log()), Verdict.WARN),
        ("WIR012", picked(lambda x: torch.sigmoid(x).log()), Verdict.NOTE),
        ("WIR012", picked(lambda x: x.softmax(-1).clamp(min=1e-8).log()), None),
        ("WIR013", picked(lambda x: x), Verdict.FAIL),
        ("WIR013", picked(lambda x: x.softmax(-1)), Verdict.FAIL),
        ("WIR013", picked(lambda x: x.log_softmax(0)), Verdict.FAIL),
        ("WIR013", picked(lambda x: x.log_softmax(-1)), None),
        ("WIR013", rated(lambda x: F.softplus(x) + 1e-6), Verdict.FAIL),
        ("WIR013", rated(lambda x: x.exp().log()), None),
        ("WIR014", picked(lambda x: x.log_softmax(0)), Verdict.WARN),
        ("WIR014", picked(lambda x: x.log_softmax(-1)), None),
    ],
)
def test_what_a_loss_is_given(
    code: str, loss: Callable[[nn.Module, Batch], Tensor], verdict: Verdict | None
) -> None:
    assert [one.verdict for one in found(code, F.relu, loss)] == ([verdict] if verdict else [])


def linear(model: nn.Module, batch: Batch) -> Tensor:
    """A loss through a layer that is made in it."""
    return F.cross_entropy(nn.Linear(3, 3)(model(batch["x"])), batch["labels"])


class Pair(nn.Module):
    """Two layers beside each other: copies, one module under both names, or a frozen one."""

    def __init__(self, second: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3))
        self.second = second(self.first)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)  # type: ignore[no-any-return]


def drawn(_: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3))


def still(_: nn.Module) -> nn.Module:
    return drawn(_).requires_grad_(False)


def chasing(model: nn.Module, batch: Batch) -> Tensor:
    """A loss whose target is what the second layer says of the other samples."""
    with torch.no_grad():
        wanted = model.second(batch["x"].flip(0))  # type: ignore[operator]
    return F.mse_loss(model.first(batch["x"]), wanted)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("code", "second", "loss", "site"),
    [
        ("WIR019", copy.deepcopy, entropy, "second"),
        ("WIR019", drawn, entropy, None),
        ("WIR017", lambda first: first, chasing, "second"),
        ("WIR017", copy.deepcopy, chasing, None),
        ("WIR016", drawn, linear, "<loss>"),
        ("WIR005", still, entropy, "second.1"),
    ],
)
def test_layers_beside_each_other(
    code: str,
    second: Callable[[nn.Module], nn.Module],
    loss: Callable[[nn.Module, Batch], Tensor],
    site: str | None,
) -> None:
    seed_everything(0)
    batch = {"x": torch.randn(12, 8), "labels": torch.arange(12) % 3}
    frozen = Layout(frozen=("second.",)) if code == "WIR005" and site else None
    subject = Subject(Pair(second), [batch], loss, adam, layout=frozen)
    sites = [f.site for f in check(subject, chosen([code])).findings if f.verdict.rank > 1]
    assert sites == ([site] if site else [])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_sum_over_samples_beside_a_mean_is_told(reduction: str) -> None:
    def penalty(model: nn.Module, batch: Batch) -> Tensor:
        every = model(batch["x"]).square()
        return 99 * (every.sum() if reduction == "sum" else every.mean() * 36)

    seed_everything(0)
    parts = {"entropy": entropy, "penalty": penalty}
    batch = {"x": torch.randn(12, 8), "labels": torch.arange(12) % 3}
    subject = Subject(Net(F.relu), [batch], lambda m, b: entropy(m, b) + penalty(m, b), adam,
        parts=parts)  # fmt: skip
    (one,) = check(subject, chosen(["WIR015"])).findings
    assert one.verdict is (Verdict.WARN if reduction == "sum" else Verdict.NOTE)


def frozen_first(optimizer: torch.optim.Optimizer) -> LambdaLR:
    """The first of two groups is thawed late."""
    first = optimizer.param_groups[0]
    half = len(first["params"]) // 2
    optimizer.add_param_group({"params": [first["params"].pop() for _ in range(half)]})
    return LambdaLR(optimizer, [lambda step: step // 100, lambda step: 1])


@pytest.mark.parametrize(
    ("schedule", "zeros"),
    [
        (lambda o: LambdaLR(o, lambda step: min(1, (step + 1) // 400)), 399),
        (lambda o: LambdaLR(o, lambda step: min(1, step / 400)), None),
        (lambda o: LambdaLR(o, lambda step: min(1, 0.1 * (step // 40))), None),
        (lambda o: ConstantLR(o, 0.01, 400), None),
        (frozen_first, None),
    ],
)
def test_a_warm_up_that_waits_is_told_with_its_steps(
    schedule: Callable[[torch.optim.Optimizer], Any], zeros: int | None
) -> None:
    seed_everything(0)
    batch = {"x": torch.randn(12, 8), "labels": torch.arange(12) % 3}
    subject = Subject(Net(F.relu), [batch], entropy, adam, schedule=schedule)
    told = [one.evidence[0].value for one in check(subject, chosen(["WIR008"])).findings]
    assert told == ([zeros] if zeros else [])


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
