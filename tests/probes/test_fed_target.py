"""Decoders that are fed what they are asked for, and models that are to give what they read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checks.copied_input import CopiedInput
from probes.experiment import Experiment
from probes.finding import judge
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
WORDS = 30


class Forecast(nn.Module):
    """A recurrent decoder of numbers that starts from what the past came to."""

    def __init__(self, wide: int, tells: bool = True) -> None:
        super().__init__()
        self.past, self.next = (nn.GRU(wide, 16, batch_first=True) for _ in range(2))
        self.out, self.tells = nn.Linear(16, wide), tells

    def forward(self, past: Tensor, fed: Tensor) -> Tensor:
        state = self.past(past)[1] if self.tells else None
        numbers: Tensor = self.out(self.next(fed, state)[0])
        return numbers

    @torch.no_grad()
    def go_on(self, past: Tensor, length: int) -> Tensor:
        fed = past[:, -1:]
        for _ in range(length):
            numbers = self(past, fed)
            fed = torch.cat([fed, numbers[:, -1:]], 1)
        return numbers


class Translate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.source, self.words = nn.Embedding(WORDS, 16), nn.Embedding(WORDS, 16)
        self.core = nn.Transformer(16, 2, 1, 1, 32, dropout=0.0, batch_first=True)
        self.out = nn.Linear(16, WORDS)

    def forward(self, source: Tensor, fed: Tensor) -> Tensor:
        later = torch.ones(fed.shape[1], fed.shape[1], dtype=torch.bool).triu(1)
        hidden = self.core(self.source(source), self.words(fed), tgt_mask=later)
        logits: Tensor = self.out(hidden)
        return logits

    @torch.no_grad()
    def greedy(self, source: Tensor) -> Tensor:
        fed = torch.ones(len(source), 1, dtype=torch.long)
        for _ in range(6):
            fed = torch.cat([fed, self(source, fed)[:, -1:].argmax(-1)], 1)
        return fed[:, 1:]


def judged(
    model: nn.Module,
    batch: Batch,
    loss: Callable[[nn.Module, Batch], Tensor],
    predict: Callable[[nn.Module, Batch], Tensor] | None = None,
) -> list[str | None]:
    seed_everything(0)
    subject = Subject(model, [batch], loss, lambda m: torch.optim.Adam(m.parameters()), predict)
    return [f.site for f in judge([CopiedInput()], Experiment.of(subject)).findings]


def windows(wide: int) -> Batch:
    chance = torch.Generator().manual_seed(0)
    whole = torch.randn(6, 20, wide, generator=chance)
    return {"past": whole[:, :12], "future": whole[:, 12:]}


def before(values: Tensor, first: Tensor) -> Tensor:
    return torch.cat([first, values[:, :-1]], 1)


@pytest.mark.parametrize("wide", [1, 3])
@pytest.mark.parametrize("scored", [F.mse_loss, F.l1_loss, F.smooth_l1_loss])
@pytest.mark.parametrize("rolls", [True, False])
def test_a_decoder_of_numbers_is_to_be_fed_those_before(
    wide: int, scored: Callable[[Tensor, Tensor], Tensor], rolls: bool
) -> None:
    for fed_before in (False, True):

        def loss(model: nn.Module, b: Batch) -> Tensor:
            first = b["past"][:, -1:]
            fed = before(b["future"], first) if fed_before else b["future"]  # noqa: B023
            return scored(model(b["past"], fed), b["future"])

        def predict(model: nn.Module, b: Batch) -> Tensor:
            assert isinstance(model, Forecast)
            return model.go_on(b["past"], 8)

        found = judged(Forecast(wide), windows(wide), loss, predict if rolls else None)
        assert found == ([] if fed_before else ["model"])


@pytest.mark.parametrize("rolls", [True, False])
def test_a_decoder_of_words_is_to_be_fed_those_before(rolls: bool) -> None:
    chance = torch.Generator().manual_seed(0)
    source = torch.randint(2, WORDS, (6, 9), generator=chance)
    batch = {"source": source, "words": source[:, :7].flip(1)}
    for fed_before in (False, True):

        def loss(model: nn.Module, b: Batch) -> Tensor:
            first = torch.ones(len(b["words"]), 1, dtype=torch.long)
            fed = before(b["words"], first) if fed_before else b["words"]  # noqa: B023
            scores = model(b["source"], fed)
            return F.cross_entropy(scores.flatten(0, 1), b["words"].flatten())

        def predict(model: nn.Module, b: Batch) -> Tensor:
            assert isinstance(model, Translate)
            return model.greedy(b["source"])

        found = judged(Translate(), batch, loss, predict if rolls else None)
        assert len(found) == (not fed_before)


@pytest.mark.parametrize("told", [True, False])
def test_an_autoencoder_gives_what_it_reads_be_it_told_a_voice_or_not(told: bool) -> None:
    chance = torch.Generator().manual_seed(0)
    batch = {"wave": torch.randn(6, 9, 3, generator=chance)}
    if told:
        batch["voice"] = torch.randn(6, 16, generator=chance)

    class Codec(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.out = nn.GRU(3, 16, batch_first=True), nn.Linear(16, 3)

        def forward(self, b: Batch) -> Tensor:
            start = b["voice"][None] if told else None
            wave: Tensor = self.out(self.into(b["wave"], start)[0])
            return wave

    def loss(model: nn.Module, b: Batch) -> Tensor:
        return F.mse_loss(model(b), b["wave"])

    assert judged(Codec(), batch, loss) == []
    assert judged(Codec(), batch, loss, lambda model, b: model(b)) == []


def test_a_posterior_may_read_all_that_is_to_be_given() -> None:
    class Latent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reads, self.gives = nn.GRU(3, 8, batch_first=True), nn.GRU(3, 8, batch_first=True)
            self.out = nn.Linear(8, 3)

        def forward(self, past: Tensor, future: Tensor | None = None) -> Tensor:
            state = None if future is None else self.reads(future)[1]
            given: Tensor = self.out(self.gives(past[:, -8:], state)[0])
            return given

    def loss(model: nn.Module, b: Batch) -> Tensor:
        return F.mse_loss(model(b["past"], b["future"]), b["future"])

    assert judged(Latent(), windows(3), loss, lambda model, b: model(b["past"])) == []
