"""Decoders behind a start symbol: what they are asked for tells what they may read."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Verdict
from probes.seeding import seed_everything

CLASSES, START = 12, 12


class Melody(nn.Module):
    """Tells the next note from those before. ahead: how many later notes its convolution sees."""

    def __init__(self, ahead: int) -> None:
        super().__init__()
        self.notes, self.conv = nn.Embedding(CLASSES + 1, 16), nn.Conv1d(16, 16, 3)
        self.head, self.ahead = nn.Linear(16, CLASSES), ahead

    def forward(self, played: Tensor) -> Tensor:
        seen = F.pad(self.notes(played).mT, (2 - self.ahead, self.ahead))
        scores: Tensor = self.head(self.conv(seen).relu().mT)
        return scores


def tunes() -> Tensor:
    chance = torch.Generator().manual_seed(0)
    notes = torch.randint(CLASSES, (16, 9), generator=chance)
    return torch.cat([torch.full((16, 1), START), notes], 1)


def subject(ahead: int, cut: bool) -> Subject:
    def of_one(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        tune = batch["tune"]
        return F.cross_entropy(model(tune[:, :-1]).flatten(0, 1), tune[:, 1:].flatten())

    def of_two(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch["played"]).flatten(0, 1), batch["next"].flatten())

    tune = tunes()
    batch = {"tune": tune} if cut else {"played": tune[:, :-1], "next": tune[:, 1:]}
    return Subject(
        Melody(ahead),
        [batch],
        of_one if cut else of_two,
        lambda m: torch.optim.Adam(m.parameters()),
    )


@pytest.mark.parametrize("cut", [True, False])
def test_a_decoder_that_sees_its_label_is_told(cut: bool) -> None:
    seed_everything(0)
    found = check(subject(1, cut), chosen(["MSK003"])).findings
    assert [(one.code, one.verdict, one.site) for one in found] == [
        ("MSK003", Verdict.WARN, "conv")
    ]


@pytest.mark.parametrize("cut", [True, False])
def test_one_that_sees_what_is_before_is_healthy(cut: bool) -> None:
    seed_everything(0)
    judged = check(subject(0, cut), chosen(["MSK003", "MSK009"]))
    assert judged.findings == ()
    assert set(judged.passed) == {"MSK003", "MSK009"}


class Behind(Melody):
    """Is given the notes themselves, and puts the start in front; reads all at once too, if so."""

    def __init__(self, ahead: int, summary: bool = False) -> None:
        super().__init__(ahead)
        self.summary, self.whole = summary, nn.GRU(16, 16, batch_first=True)

    def forward(self, notes: Tensor) -> Tensor:
        start = notes.new_full((len(notes), 1), START)
        behind = self.notes(torch.cat([start, notes[:, :-1]], 1)).mT
        if self.summary:
            behind = behind + self.whole(self.notes(notes))[1][0, :, :, None]
        seen = F.pad(behind, (2 - self.ahead, self.ahead))
        scores: Tensor = self.head(self.conv(seen).relu().mT)
        return scores


def behind(model: nn.Module) -> Subject:
    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch["notes"]).flatten(0, 1), batch["notes"].flatten())

    batch = {"notes": tunes()[:, 1:]}
    return Subject(model, [batch], loss, lambda m: torch.optim.Adam(m.parameters()))


@pytest.mark.parametrize("ahead", [1, 2])
def test_notes_that_the_code_moves_and_the_model_reads_on_are_told_once(ahead: int) -> None:
    seed_everything(0)
    found = check(behind(Behind(ahead)), chosen(["MSK003", "LBL007"])).findings
    assert [(one.code, one.verdict, one.site) for one in found] == [
        ("MSK003", Verdict.WARN, "conv")
    ]


@pytest.mark.parametrize("summary", [False, True])
def test_notes_that_are_read_up_to_the_one_before_are_healthy(summary: bool) -> None:
    seed_everything(0)
    model = Behind(0, summary)
    assert check(behind(model), chosen(["MSK003", "LBL007"])).findings == ()
