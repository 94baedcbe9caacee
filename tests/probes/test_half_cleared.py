"""States of which a part is cleared and another goes on, and those that are cleared well."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

PLACES, WIDE = 9, 8
State = tuple[Tensor, Tensor]


class Cell(nn.Module):
    """An LSTM's cell. anew: the parts that begin anew, from zeros or a learned row."""

    def __init__(self, anew: str, learned: bool) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(4, WIDE), nn.Linear(WIDE, 1)
        self.start = nn.Parameter(torch.randn(2, WIDE), learned)
        self.learned, self.anew = learned, anew

    def forward(self, seen: Tensor, first: Tensor) -> Tensor:
        starts = self.start if self.learned else torch.zeros_like(self.start)
        h, c = (start.expand(len(seen), WIDE) for start in starts)
        given = []
        for t in range(PLACES):
            begins = first[:, t, None] > 0
            h = torch.where(begins, starts[0], h) if "h" in self.anew else h
            c = torch.where(begins, starts[1], c) if "c" in self.anew else c
            h, c = self.cell(seen[:, t], (h, c))
            if self.anew == "drop" and self.training:
                h = h * (torch.rand(len(h), 1) < 0.8)
            given.append(self.head(h))
        return torch.cat(given, 1)


class Pieces(nn.Module):
    """An LSTM, or layers of a GRU, from flag to flag of any row. anew: as above, or layers."""

    def __init__(self, kind: type[nn.RNNBase], anew: str, layers: int) -> None:
        super().__init__()
        self.core = kind(4, WIDE, layers, batch_first=True)
        self.head, self.anew = nn.Linear(WIDE, 1), anew

    def forward(self, seen: Tensor, first: Tensor) -> Tensor:
        parts = ["h", "c"] if isinstance(self.core, nn.LSTM) else ["h"]
        layers = self.core.num_layers
        state = [seen.new_zeros(layers, len(seen), WIDE) for _ in parts]
        cuts = [0, *[t for t in range(1, PLACES) if bool(first[:, t].any())], PLACES]
        given = []
        for start, end in pairwise(cuts):
            keep = (1 - first[:, start].float())[:, None]
            for i, part in enumerate(parts):
                if part in self.anew:
                    state[i] = state[i] * keep
                for layer in range(layers):
                    if str(layer) in self.anew:
                        state[i] = state[i].clone()
                        state[i][layer] *= keep
            held = tuple(state) if len(parts) > 1 else state[0]
            out, gave = self.core(seen[:, start:end], held)
            state = [*gave] if len(parts) > 1 else [gave]
            given.append(self.head(out)[..., 0])
        return torch.cat(given, 1)


class WordsAndSentences(nn.Module):
    """The words' cell begins anew where a sentence does, and the sentences' cell goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.sentences = nn.LSTMCell(4, WIDE), nn.LSTMCell(WIDE, WIDE)
        self.head = nn.Linear(WIDE, 1)

    def forward(self, seen: Tensor, first: Tensor) -> Tensor:
        low = high = tuple(seen.new_zeros(2, len(seen), WIDE))
        given = []
        for t in range(PLACES):
            keep = (1 - first[:, t].float())[:, None]
            low = self.words(seen[:, t], (low[0] * keep, low[1] * keep))
            high = self.sentences(low[0], high)
            given.append(self.head(high[0]))
        return torch.cat(given, 1)


class Padded(nn.Module):
    """What lies behind the end of a row is set to zero in h alone."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(4, WIDE), nn.Linear(WIDE, 1)

    def forward(self, seen: Tensor, there: Tensor) -> Tensor:
        h, c = seen.new_zeros(2, len(seen), WIDE)
        given = []
        for t in range(PLACES):
            h, c = self.cell(seen[:, t], (h, c))
            h = h * there[:, t, None]
            given.append(self.head(h))
        return torch.cat(given, 1)


def said(model: nn.Module, ends: bool = False) -> list[Finding]:
    """ends: the flags are true up to each row's end, and not where an episode begins."""
    seed_everything(0)
    first = torch.rand(12, PLACES) < 0.25
    first[:, 0] = True
    there = torch.arange(PLACES) < torch.randint(3, PLACES - 1, (12, 1))
    batch = {
        "seen": torch.randn(12, PLACES, 4),
        "flag": (there if ends else first).float(),
        "value": torch.randn(12, PLACES),
    }

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.mse_loss(model(batch["seen"], batch["flag"]), batch["value"])

    subject = Subject(model, [batch], loss, lambda m: torch.optim.Adam(m.parameters()))
    return list(check(subject, chosen(["STA012"])).findings)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize(
    ("anew", "begins", "goes_on"), [("h", "hidden", "cell"), ("c", "cell", "hidden")]
)
def test_one_part_of_a_cells_state_that_goes_on_is_told(
    anew: str, begins: str, goes_on: str, learned: bool
) -> None:
    [found] = said(Cell(anew, learned))
    assert found.site == "cell"
    assert f"a row's {begins} state {anew} begins anew by `flag`" in found.message
    assert f"its {goes_on} state" in found.message


@pytest.mark.parametrize(
    ("kind", "anew", "layers", "words"),
    [
        (nn.LSTM, "h", 1, "its cell state c goes on"),
        (nn.LSTM, "c", 2, "its hidden state h of layer 0 goes on"),
        (nn.GRU, "1", 2, "its state of layer 0 goes on"),
    ],
)
def test_one_part_of_a_layers_state_that_goes_on_is_told(
    kind: type[nn.RNNBase], anew: str, layers: int, words: str
) -> None:
    [found] = said(Pieces(kind, anew, layers))
    assert (found.site, words in found.message) == ("core", True)


@pytest.mark.parametrize(
    "model",
    [
        lambda: Cell("hc", False),
        lambda: Cell("hc", True),
        lambda: Cell("", False),  # the flag is no matter
        lambda: Cell("drop", False),  # in training, by chance
        lambda: Pieces(nn.LSTM, "hc", 2),
        lambda: Pieces(nn.GRU, "h", 2),
        lambda: Pieces(nn.GRU, "", 2),
        WordsAndSentences,
    ],
)
def test_a_state_that_is_cleared_whole_or_never_is_well(model: type[nn.Module]) -> None:
    assert said(model()) == []


def test_what_is_cleared_to_the_end_is_well() -> None:
    assert said(Padded(), ends=True) == []
