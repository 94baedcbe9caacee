"""Outputs whose last place is cut off after the model, asked for the next id."""

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
IDS, LONG, WIDE = 40, 14, 16


class Convolved(nn.Module):
    """A convolution over steps before, whose padding is trimmed at the end, or at the start."""

    def __init__(self, at_start: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDE, WIDE, 2, dilation=2, padding=2)
        self.at_start = at_start

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x.transpose(1, 2))
        return x + (out[:, :, 2:] if self.at_start else out[:, :, :-2]).transpose(1, 2).tanh()


class Attentive(nn.Module):
    """Attends to every place, or to none that comes later."""

    def __init__(self, to_all: bool) -> None:
        super().__init__()
        self.attention, self.to_all = nn.MultiheadAttention(WIDE, 2, batch_first=True), to_all

    def forward(self, x: Tensor) -> Tensor:
        ahead = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        out: Tensor = self.attention(x, x, x, attn_mask=None if self.to_all else ahead)[0]
        return x + out


class Summed(nn.Module):
    """A decoder that is told the whole row by one vector, as of a variational model."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.GRU(WIDE, WIDE, batch_first=True)
        self.decoder = nn.GRU(WIDE, WIDE, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder(x, self.encoder(x)[1])[0]
        return out


class Copying(nn.Module):
    """A decoder beside an encoder of the same ids, as an autoencoder has them."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(IDS, WIDE), nn.Embedding(IDS, WIDE)
        self.attention = nn.MultiheadAttention(WIDE, 2, batch_first=True)
        self.decoder = nn.GRU(WIDE, WIDE, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        read, memory = self.decoder(self.target(ids))[0], self.source(ids)
        out: Tensor = read + self.attention(read, memory, memory)[0]
        return out


def told(body: nn.Module, own: bool = False) -> list[tuple[str, Verdict, str]]:
    """What is said of it; own: whether each place is asked for its own id, but for the first."""
    first = nn.Identity() if isinstance(body, Copying) else nn.Embedding(IDS, WIDE)
    model = nn.Sequential(first, body, nn.Linear(WIDE, IDS))

    def predict(model: nn.Module, b: Batch) -> Tensor:
        out: Tensor = model(b["ids"])
        return out[:, 1:] if own else out[:, :-1]

    def loss(model: nn.Module, b: Batch) -> Tensor:
        return F.cross_entropy(predict(model, b).flatten(0, 1), b["ids"][:, 1:].flatten())

    def adam(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=1e-3)

    batch = {"ids": torch.randint(0, IDS, (8, LONG))}
    subject = Subject(model, [batch], loss, adam, predict=predict)
    return [(f.code, f.verdict, f.site) for f in check(subject, chosen(["MSK003"])).findings]


@pytest.mark.parametrize("body", [Convolved, Attentive])
@pytest.mark.parametrize("leaks", [True, False])
def test_the_future_is_told_though_the_last_place_is_cut_off_after_it_was_read(
    body: type[Convolved | Attentive], leaks: bool
) -> None:
    seed_everything(0)
    site = "1" if body is Convolved else "1.attention"
    assert told(body(leaks)) == ([("MSK003", Verdict.WARN, site)] if leaks else [])


def test_an_encoder_beside_a_decoder_and_a_place_s_own_id_are_no_future() -> None:
    seed_everything(0)
    assert told(Summed()) == []
    assert told(Copying()) == []
    assert told(Attentive(to_all=True), own=True) == []
