"""Means over spans by differences of a running sum, and what else such differences are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Work = Callable[[Tensor, Tensor, Tensor], Tensor]
N, LENGTH, WIDTH, UNITS = 6, 11, 4, 3


class Net(nn.Module):
    """Vectors (sample, token, feature) of ids, of which the work makes those of spans."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(20, WIDTH), nn.LazyLinear(1)
        self.work = work

    def forward(self, ids: Tensor, one: Tensor, two: Tensor) -> Tensor:
        scores: Tensor = self.head(self.work(self.tokens(ids), one, two))
        return scores.squeeze(-1)


def said(work: Work, border: bool = False) -> list[Finding]:
    """border: a span ends at the place where the next begins, and not before it."""
    seed_everything(0)
    lengths = torch.randint(1, 4, (N, UNITS))
    ends = lengths.cumsum(1)
    batch = {"ids": torch.randint(0, 20, (N, LENGTH)), "y": torch.randn(N, UNITS)}
    batch |= {"from": ends - lengths, "to": ends if border else ends - 1}
    model = Net(work)
    model(batch["ids"], batch["from"], batch["to"])
    subject = Subject(
        model,
        [batch],
        lambda m, b: F.mse_loss(m(b["ids"], b["from"], b["to"]), b["y"]),
        lambda m: torch.optim.Adam(m.parameters()),
    )
    judged = check(subject, chosen(["IDX022"]))
    assert not judged.not_judged
    return list(judged.findings)


def take(x: Tensor, at: Tensor) -> Tensor:
    return x.gather(1, at.unsqueeze(-1).expand(-1, -1, x.size(-1)))


def width(one: Tensor, two: Tensor) -> Tensor:
    return (two - one + 1).unsqueeze(-1)


def gathered(x: Tensor, one: Tensor, two: Tensor) -> Tensor:
    run = x.cumsum(1)
    return (take(run, two) - take(run, one)) / width(one, two)


def subscripts(x: Tensor, one: Tensor, two: Tensor) -> Tensor:
    run, rows = torch.cumsum(x, dim=1).float(), torch.arange(len(x))[:, None]
    total = torch.sub(run[rows, two], run[rows, one])
    return total.div(width(one, two).clamp(min=1).float())


def looped(x: Tensor, one: Tensor, two: Tensor) -> Tensor:
    run = x.cumsum(1)
    rows = [
        [(run[n, e] - run[n, s]) / (e - s + 1) for s, e in zip(*pair, strict=True)]
        for n, pair in enumerate(zip(one.tolist(), two.tolist(), strict=True))
    ]
    return torch.stack([torch.stack(row) for row in rows])


def beside(x: Tensor, one: Tensor, two: Tensor) -> Tensor:
    """With what stands at both ends joined to it."""
    return torch.cat([gathered(x, one, two), take(x, one), take(x, two)], -1)


@pytest.mark.parametrize("work", [gathered, subscripts, looped, beside])
def test_a_mean_that_misses_its_first_entry_is_told(work: Work) -> None:
    (one,) = said(work)
    assert (one.verdict, one.site, one.op) == (Verdict.WARN, "model", "cumsum")
    assert "misses its first entry" in one.message
    assert one.source is not None


def led(run: Tensor) -> Tensor:
    return F.pad(run, (0, 0, 1, 0))


def last_left_out(x: Tensor, one: Tensor, two: Tensor) -> Tensor:
    run = torch.cat([torch.zeros_like(x[:, :1]), x.cumsum(1)], 1)
    return (take(run, two) - take(run, one)) / width(one, two)


def written(x: Tensor, one: Tensor, two: Tensor) -> Tensor:
    run = x.new_zeros(N, LENGTH + 1, WIDTH)
    run[:, 1:] = x.cumsum(1)
    return (take(run, two) - take(run, one)) / width(one, two)


@pytest.mark.parametrize("work", [last_left_out, written])
def test_one_that_misses_its_last_is_a_note(work: Work) -> None:
    (one,) = said(work)
    assert one.verdict is Verdict.NOTE
    assert "misses its last entry" in one.message


def whole(x: Tensor, one: Tensor, two: Tensor) -> Tensor:
    run = led(x.cumsum(1))
    return (take(run, two + 1) - take(run, one)) / width(one, two)


def first_added(x: Tensor, one: Tensor, two: Tensor) -> Tensor:
    run = x.cumsum(1)
    return (take(run, two) - take(run, one) + take(x, one)) / width(one, two)


def first_added_after(x: Tensor, one: Tensor, two: Tensor) -> Tensor:
    return gathered(x, one, two) + take(x, one) / width(one, two)


def without_the_first(x: Tensor, one: Tensor, two: Tensor) -> Tensor:
    run = x.cumsum(1)
    return (take(run, two) - take(run, one)) / (two - one).clamp(min=1).unsqueeze(-1)


def before_the_first(x: Tensor, one: Tensor, two: Tensor) -> Tensor:
    run = x.cumsum(1)
    off = take(run, (one - 1).clamp(min=0)) * (one > 0).unsqueeze(-1)
    return (take(run, two) - off) / width(one, two)


def returns(x: Tensor, one: Tensor, two: Tensor) -> Tensor:
    """Of a window of one length, with a guard."""
    run = x.cumsum(1)
    return (take(run, one + 2) - take(run, one)) / torch.full_like(one, 3).unsqueeze(-1)


def area(x: Tensor, one: Tensor, two: Tensor) -> Tensor:
    table = led(x.cumsum(1).cumsum(2))
    both = take(table, two + 1) - take(table, one)
    return (both[..., 2:] - both[..., :-2]) / (2 * width(one, two))


def nothing(x: Tensor, one: Tensor, two: Tensor) -> Tensor:
    """No spans, beside others that are right."""
    return whole(x, one, two) + gathered(x, one[:, :0], two[:, :0]).sum()


@pytest.mark.parametrize(
    "work",
    [
        whole,
        first_added,
        first_added_after,
        without_the_first,
        before_the_first,
        returns,
        area,
        nothing,
    ],
)
def test_what_sums_as_much_as_it_says_is_silent(work: Work) -> None:
    assert said(work) == []


def test_pieces_between_borders_are_silent() -> None:
    """Each begins where the one before ends, and the one is there for those that are empty."""
    assert said(gathered, border=True) == []
