"""A recurrent state that is cleared beside where an episode ends, by flags of its end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

PLACES = 16
Batch = dict[str, Tensor]


def walks(rows: int) -> Batch:
    """Random walks that begin near 0 and go up; the last step of each is flagged."""
    seen, ended = torch.zeros(rows, PLACES, 2), torch.zeros(rows, PLACES, dtype=torch.bool)
    for row in range(rows):
        left, now = 0, torch.zeros(2)
        for t in range(PLACES):
            if left == 0:
                left, now = int(torch.randint(2, 6, ())), 0.05 * torch.randn(2)
            seen[row, t] = now
            left, now = left - 1, now + 0.5 + 0.2 * torch.rand(2)
            ended[row, t] = left == 0
    return {"seen": seen, "flag": ended}


def documents(rows: int) -> Batch:
    """Ids of documents that begin with 1 and end with 2, which is flagged."""
    kept = walks(rows)["flag"]
    ids = torch.randint(3, 9, (rows, PLACES))
    begun = kept.roll(1, 1)
    begun[:, 0] = True
    ids[begun], ids[kept] = 1, 2
    return {"seen": F.one_hot(ids, 9).float(), "flag": kept}


def separated(rows: int) -> Batch:
    """Ids with a separator between documents, which is of neither; it is flagged."""
    kept = walks(rows)["flag"]
    kept[:, 0] = False
    ids = torch.randint(1, 9, (rows, PLACES))
    ids[kept] = 0
    return {"seen": F.one_hot(ids, 9).float(), "flag": kept}


def begun(rows: int) -> Batch:
    """Flags of beginnings, but for the first step of a row, at which there is nothing to clear."""
    made = walks(rows)
    flag = made["flag"].roll(1, 1)
    flag[:, 0] = False
    return made | {"flag": flag}


def windows(rows: int) -> Batch:
    """Cut anywhere out of a stream, such that no row begins with a flagged step."""
    made = walks(8 * rows)
    flag = made["flag"]
    kept = ~flag[:, 4]
    return {"seen": made["seen"][kept][:rows, 4:], "flag": flag[kept][:rows, 4:]}


class Policy(nn.Module):
    """Carries a state over the places. clears: by what flag, relative to the step."""

    def __init__(self, wide: int, clears: str) -> None:
        super().__init__()
        self.cell, self.head, self.clears = nn.LSTMCell(wide, 8), nn.Linear(8, 1), clears

    def forward(self, seen: Tensor, flag: Tensor) -> Tensor:
        h = c = seen.new_zeros(len(seen), 8)
        keep, given = 1 - flag.float(), []
        for t in range(seen.shape[1]):
            at = {"before": t, "behind": t - 1, "late": t - 2}.get(self.clears, t)
            if self.clears != "after" and at >= 0:
                h, c = h * keep[:, at, None], c * keep[:, at, None]
            h, c = self.cell(seen[:, t], (h, c))
            given.append(self.head(h))
            if self.clears == "after":
                h, c = h * keep[:, t, None], c * keep[:, t, None]
        return torch.cat(given, 1)


def said(data: Batch, clears: str) -> list[Finding]:
    batch = data | {"value": torch.randn_like(data["flag"].float())}

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.mse_loss(model(batch["seen"], batch["flag"]), batch["value"])

    model = Policy(data["seen"].shape[2], clears)
    subject = Subject(model, [batch], loss, lambda m: torch.optim.Adam(m.parameters()))
    return list(check(subject, chosen(["STA011"])).findings)


@pytest.mark.parametrize("made", [walks, documents])
@pytest.mark.parametrize(("clears", "words"), [("before", "a step early"), ("late", "a step late")])
def test_a_state_that_is_cleared_beside_the_end_is_told(
    made: Callable[[int], Batch], clears: str, words: str
) -> None:
    seed_everything(0)
    [found] = said(made(40), clears)
    assert words in found.message
    assert "`flag` is 1 where an episode ends" in found.message
    assert found.site == "cell"


@pytest.mark.parametrize(
    ("made", "clears"),
    [
        (walks, "after"),
        (walks, "behind"),
        (documents, "behind"),
        (begun, "before"),
        (separated, "before"),  # it belongs to the document behind as well as to that before
        (separated, "behind"),
        (windows, "before"),  # what begins an episode cannot be told
    ],
)
def test_a_state_that_is_cleared_at_the_end_or_where_that_is_unknown_is_well(
    made: Callable[[int], Batch], clears: str
) -> None:
    seed_everything(0)
    assert said(made(40), clears) == []
