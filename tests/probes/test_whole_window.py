"""A statistic of the whole window tells a forecaster what it is to give; of the context it may."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict

Batch = dict[str, Tensor]
Moments = tuple[Tensor, Tensor]
KNOWN, STEPS = 12, 18


class Lagged(nn.Module):
    """A recurrent forecaster of the last steps, each of which reads the one before."""

    def __init__(self, moments: Callable[[Tensor], Moments], known: int = KNOWN) -> None:
        super().__init__()
        self.rnn, self.out = nn.GRU(1, 12, batch_first=True), nn.Linear(12, 1)
        self.moments, self.known = moments, known

    def forward(self, x: Tensor) -> Tensor:
        mean, spread = self.moments(x)
        lagged = F.pad(((x - mean) / spread)[:, :-1], (1, 0))
        hidden = self.rnn(lagged[..., None])[0][:, self.known :]
        out: Tensor = self.out(hidden)[..., 0] * spread + mean
        return out


class Norm(nn.Module):
    """Instance normalisation, whose moments have no gradient. known: places that they are of."""

    def __init__(self, known: int) -> None:
        super().__init__()
        self.known = known

    def forward(self, x: Tensor) -> Moments:
        of = x[:, : self.known]
        mean = of.mean(1, keepdim=True).detach()
        with torch.no_grad():
            spread = torch.sqrt(((of - mean) ** 2).mean(1, keepdim=True) + 1e-5)
        return mean, spread


class ByNorm(Lagged):
    """The moments come of a module."""

    def __init__(self, reads: int, known: int = KNOWN) -> None:
        super().__init__(Norm(reads), known)


class Cells(nn.Module):
    """The same, step by step, with a spread beside the mean."""

    def __init__(self, reads: int) -> None:
        super().__init__()
        self.cell, self.out, self.reads = nn.GRUCell(1, 12), nn.Linear(12, 2), reads

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scale = x[:, : self.reads].abs().amax(1) + 1e-3
        state, given = x.new_zeros(len(x), 12), []
        for step in range(1, STEPS):
            state = self.cell((x[:, step - 1] / scale)[:, None], state)
            given.append(self.out(state) * scale[:, None])
        out = torch.stack(given[KNOWN - 1 :], 1)
        return out[..., 0], F.softplus(out[..., 1]) + 0.1


class Both(nn.Module):
    """A decoder of what is to come, beside an encoder of what was."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.reads, self.gives = (nn.GRU(1, 12, batch_first=True) for _ in range(2))
        self.out, self.whole = nn.Linear(12, 1), whole

    def forward(self, past: Tensor, future: Tensor) -> Tensor:
        scale = (torch.cat([past, future], 1) if self.whole else past).std(1, keepdim=True)
        state = self.reads((past / scale)[..., None])[1]
        fed = torch.cat([past[:, -1:], future[:, :-1]], 1) / scale
        out: Tensor = self.out(self.gives(fed[..., None], state)[0])[..., 0] * scale
        return out


class Filling(nn.Module):
    """Reads both ways, what it is to give among it. hides: but its own places."""

    def __init__(self, hides: bool) -> None:
        super().__init__()
        self.rnn, self.out = nn.GRU(1, 12, batch_first=True, bidirectional=True), nn.Linear(24, 1)
        self.hides = hides

    def forward(self, x: Tensor) -> Tensor:
        scale = x.abs().mean(1, keepdim=True)
        seen = x / scale
        if self.hides:
            seen = seen * (torch.arange(STEPS) % 3 != 1)
        out: Tensor = self.out(self.rnn(seen[..., None])[0])[..., 0] * scale
        return out


class Loud(Lagged):
    """Is told how loud the whole is to be, which whoever uses it says."""

    def __init__(self) -> None:
        super().__init__(lambda x: (x.new_zeros(()), x.new_ones(())), 0)
        self.told = nn.Linear(1, 12)

    def forward(self, x: Tensor) -> Tensor:
        loud = self.told(x.pow(2).mean(1, keepdim=True))
        lagged = F.pad(x[:, :-1], (1, 0))
        out: Tensor = self.out(self.rnn(lagged[..., None], loud[None])[0])[..., 0]
        return out


def of_whole(x: Tensor) -> Moments:
    return x.new_zeros(()), x.abs().mean(dim=1, keepdim=True) + 1e-3


def of_known(x: Tensor) -> Moments:
    return of_whole(x[:, :KNOWN])


def running(x: Tensor) -> Moments:
    counts = torch.arange(1, x.shape[1])
    return x.new_zeros(()), F.pad(x[:, :-1].abs().cumsum(1) / counts, (1, 0), value=1.0) + 1e-3


def series(seed: int) -> Batch:
    chance = torch.Generator().manual_seed(seed)
    level = 1 + 2 * torch.rand(12, 1, generator=chance)
    return {"x": level * (1 + 0.5 * torch.randn(12, STEPS, generator=chance).cumsum(1) / 4)}


def squared(out: Tensor, wanted: Tensor) -> Tensor:
    return F.mse_loss(out, wanted)


def found(
    model: nn.Module,
    predict: Callable[[nn.Module, Batch], Tensor],
    loss: Callable[[nn.Module, Batch], Tensor],
    parts: bool = False,
) -> list[Finding]:
    batch = series(0)
    if parts:
        batch = {"past": batch["x"][:, :KNOWN], "future": batch["x"][:, KNOWN:]}
    subject = Subject(
        model, [batch], loss, lambda m: torch.optim.Adam(m.parameters()), predict=predict
    )
    said = check(subject, chosen(only=["MSK003"])).findings
    return [each for each in said if each.verdict.rank > Verdict.NOTE.rank]


def forecast(model: nn.Module, first: int = KNOWN) -> list[Finding]:
    return found(
        model,
        lambda m, b: m(b["x"]),
        lambda m, b: squared(m(b["x"]), b["x"][:, first:]),
    )


def likely(model: nn.Module) -> list[Finding]:
    def loss(m: nn.Module, b: Batch) -> Tensor:
        mean, spread = m(b["x"])
        error = (b["x"][:, KNOWN:] - mean) / spread
        return (spread.log() + error**2 / 2).mean()

    return found(model, lambda m, b: m(b["x"])[0], loss)


def decoded(model: nn.Module) -> list[Finding]:
    return found(
        model,
        lambda m, b: m(b["past"], b["future"]),
        lambda m, b: squared(m(b["past"], b["future"]), b["future"]),
        parts=True,
    )


@pytest.mark.parametrize(
    ("judged", "name", "site"),
    [
        (lambda: forecast(Lagged(of_whole)), "mean", "model"),
        (lambda: forecast(Lagged(of_whole, 0), 0), "mean", "model"),
        (lambda: forecast(ByNorm(STEPS)), "mean", "moments"),
        (lambda: likely(Cells(STEPS)), "amax", "model"),
        (lambda: decoded(Both(whole=True)), "std", "model"),
    ],
)
def test_what_the_window_comes_to_tells_what_is_to_come(
    judged: Callable[[], list[Finding]], name: str, site: str
) -> None:
    torch.manual_seed(0)
    (only,) = judged()
    assert (only.verdict, only.site, only.op) == (Verdict.WARN, site, f"aten.{name}")
    key = "future" if name == "std" else "x"
    assert f"by the `{name}` of `{key}` over the whole window" in only.message


@pytest.mark.parametrize(
    "judged",
    [
        lambda: forecast(Lagged(of_known)),
        lambda: forecast(Lagged(running)),
        lambda: forecast(ByNorm(KNOWN)),
        lambda: likely(Cells(KNOWN)),
        lambda: decoded(Both(whole=False)),
        lambda: forecast(Filling(hides=False), 0),
        lambda: forecast(Filling(hides=True), 0),
        lambda: forecast(Loud(), 0),
    ],
)
def test_what_is_known_may_be_divided_by(judged: Callable[[], list[Finding]]) -> None:
    torch.manual_seed(0)
    assert judged() == []


def test_what_is_scored_as_it_is_normalised_is_not_asked_for() -> None:
    """Speech is learned so: each utterance, with what is to come, is brought to one spread."""

    class Next(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = nn.GRU(1, 12, batch_first=True), nn.Linear(12, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.out(self.rnn(even(x)[:, :-3, None])[0])[..., 0]
            return out

    def even(x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)

    torch.manual_seed(0)
    model = Next()
    assert not [
        each
        for each in found(
            model,
            lambda m, b: m(b["x"]),
            lambda m, b: squared(m(b["x"]), even(b["x"])[:, 3:]),
        )
        if "whole window" in each.message
    ]
