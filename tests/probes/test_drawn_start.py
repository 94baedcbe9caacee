"""Recurrent layers that start from what is drawn."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Variable

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Work = Callable[["Net", Tensor], Tensor]
Loss = Callable[[nn.Module, dict[str, Tensor]], Tensor]
WIDE, SAMPLES, LONG = 8, 6, 4


class Net(nn.Module):
    """Numbers for each sample, as `work` makes them."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.gru, self.cell = nn.GRU(3, WIDE, batch_first=True), nn.LSTMCell(3, WIDE)
        self.encode, self.spread = nn.Linear(3, WIDE), nn.Linear(3, WIDE)
        self.learned = nn.Parameter(torch.randn(1, 1, WIDE))
        self.head, self.judge, self.work = nn.Linear(WIDE, 1), nn.Linear(1, 1), work

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.work(self, x)
        return out

    def read(self, x: Tensor, h: Tensor) -> Tensor:
        out: Tensor = self.head(self.gru(x, h)[0][:, -1])[:, 0]
        return out


def scored(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.mse_loss(model(batch["x"]), batch["y"])


def said(work: Work, loss: Loss = scored) -> list[Finding]:
    seed_everything(0)
    x = torch.randn(SAMPLES, LONG, 3)
    subject = Subject(
        Net(work),
        [{"x": x, "y": x[:, -1, 0]}],
        loss,
        lambda model: torch.optim.Adam(model.parameters()),
        predict=lambda model, batch: model(batch["x"]),
    )
    return list(check(subject, chosen(["STA019"])).findings)


def drawn(net: Net, x: Tensor) -> Tensor:
    return net.read(x, torch.randn(1, len(x), WIDE))


def old_way(net: Net, x: Tensor) -> Tensor:
    return net.read(x, Variable(torch.rand(1, len(x), WIDE)).to(x.dtype))


def by_init(net: Net, x: Tensor) -> Tensor:
    h = 0.3 * nn.init.xavier_normal_(torch.empty(len(x), WIDE))
    return net.read(x, h[None])


def by_steps(net: Net, x: Tensor) -> Tensor:
    h, c = torch.zeros(len(x), WIDE), x.new_empty(len(x), WIDE).normal_()
    for t in range(LONG):
        h, c = net.cell(x[:, t], (h, c))
    out: Tensor = net.head(h)[:, 0]
    return out


def packed(net: Net, x: Tensor) -> Tensor:
    lengths = torch.arange(len(x)) % LONG + 1
    each = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    out: Tensor = net.head(net.gru(each, torch.randn(1, len(x), WIDE))[1][0])[:, 0]
    return out


@pytest.mark.parametrize("work", [drawn, old_way, by_init, by_steps, packed])
def test_a_start_that_is_drawn_alone_is_told(work: Work) -> None:
    (finding,) = said(work)
    assert finding.verdict is Verdict.WARN
    assert finding.site == ("cell" if work is by_steps else "gru")
    line = work.__code__.co_firstlineno
    at = int((finding.source or ":0").rpartition(":")[2])
    assert line < at <= line + 5
    assert "`y`" in finding.message


def zeros(net: Net, x: Tensor) -> Tensor:
    return net.read(F.dropout(x, 0.1), torch.zeros(1, len(x), WIDE))


def learned(net: Net, x: Tensor) -> Tensor:
    return net.read(x, net.learned.expand(1, len(x), WIDE) + 0.1 * torch.randn(1, len(x), WIDE))


def encoded(net: Net, x: Tensor) -> Tensor:
    return net.read(x, net.encode(x[:, 0])[None] + torch.randn(1, len(x), WIDE))


def around_a_mean(net: Net, x: Tensor) -> Tensor:
    mean, scale = net.encode(x[:, 0]), net.spread(x[:, 0]).exp()
    return net.read(x, (mean + torch.randn_like(mean) * scale)[None])


def written_over(net: Net, x: Tensor) -> Tensor:
    h = torch.randn(1, len(x), WIDE)
    h[0] = net.encode(x[:, 0]) + torch.rand(len(x), WIDE)
    return net.read(x, h)


def in_training_alone(net: Net, x: Tensor) -> Tensor:
    shape = 1, len(x), WIDE
    return net.read(x, torch.randn(shape) if net.training else torch.zeros(shape))


def from_the_prior(net: Net, x: Tensor) -> Tensor:
    return around_a_mean(net, x) if net.training else drawn(net, x)


def several(net: Net, x: Tensor) -> Tensor:
    return torch.stack([drawn(net, x) for _ in range(4)]).mean(0)


def in_rows(net: Net, x: Tensor) -> Tensor:
    return drawn(net, x.repeat_interleave(3, 0)).view(len(x), 3).mean(1)


def generated(net: Net, x: Tensor) -> Tensor:
    return net.read(torch.randn_like(x), torch.randn(1, len(x), WIDE))


@pytest.mark.parametrize(
    "work",
    [
        *(zeros, learned, encoded, around_a_mean, written_over, in_training_alone),
        *(from_the_prior, several, in_rows, generated),
    ],
)
def test_nothing_is_said_of_other_starts(work: Work) -> None:
    assert said(work) == []


def judged(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """A critic's view of what was made, and of what is real."""
    made, real = (model.judge(each[:, None]) for each in (model(batch["x"]), batch["y"]))
    return F.softplus(-made).mean() + F.softplus(real).mean()


def test_nothing_is_said_where_no_label_is_compared_with_what_moves() -> None:
    assert said(drawn, judged) == []
