"""A mask that the code makes of lengths the wrong way round is told with its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Layout, Mask, Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict

Batch = dict[str, Tensor]
Pool = Callable[[Tensor, Tensor], Tensor]


def places(lengths: Tensor) -> Tensor:
    return torch.arange(8)[None, :] + 0 * lengths[:, None]


def inverted(h: Tensor, lengths: Tensor) -> Tensor:
    mask = (places(lengths) >= lengths[:, None]).unsqueeze(-1).float()  # inverted
    return (h * mask).sum(1) / mask.sum(1).clamp(min=1.0)


def right(h: Tensor, lengths: Tensor) -> Tensor:
    mask = (places(lengths) < lengths[:, None]).unsqueeze(-1).float()
    return (h * mask).sum(1) / mask.sum(1).clamp(min=1.0)


def filled(h: Tensor, lengths: Tensor) -> Tensor:
    hides = (places(lengths) >= lengths[:, None]).unsqueeze(-1)
    return h.masked_fill(hides, -1e4).max(1).values


def filled_inverted(h: Tensor, lengths: Tensor) -> Tensor:
    shows = (places(lengths) < lengths[:, None]).T.unsqueeze(-1)  # shown, and filled
    return h.transpose(0, 1).masked_fill(shows, -1e4).max(0).values


def both(h: Tensor, lengths: Tensor) -> Tensor:
    return right(h, lengths) + h.mean(1)


def one_of_two(h: Tensor, lengths: Tensor) -> Tensor:
    hides = (places(lengths) >= lengths[:, None]).unsqueeze(-1)
    shown = h.masked_fill(hides, 0.0)
    shows = (places(lengths) < lengths[:, None]).unsqueeze(-1)  # the second one
    return shown.sum(1) + h.masked_fill(shows, 0.0).mean(1)


class Averaged(nn.Module):
    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(50, 8, padding_idx=0), nn.Linear(8, 3)
        self.proj, self.pool = nn.Linear(8, 8), pool

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        seen = self.pool(torch.tanh(self.proj(self.table(ids))), lengths)
        logits: Tensor = self.head(seen)
        return logits


def subject(pool: Pool, layout: Layout | None = None) -> Subject:
    torch.manual_seed(0)
    lengths = torch.tensor([3, 5, 4, 6, 7, 2])
    ids = torch.randint(1, 50, (6, 8)) * (torch.arange(8)[None] < lengths[:, None])
    return Subject(
        Averaged(pool),
        [{"ids": ids, "lengths": lengths, "labels": torch.arange(6) % 3}],
        lambda m, b: F.cross_entropy(m(b["ids"], b["lengths"]), b["labels"]),
        lambda m: torch.optim.SGD(m.parameters(), lr=0.1),
        predict=lambda m, b: m(b["ids"], b["lengths"]),
        layout=layout,
    )


def found(one: Subject) -> tuple[Finding, ...]:
    return check(one, chosen(only=["MSK006"])).findings


def line(mark: str) -> str:
    rows = Path(__file__).read_text().splitlines()
    return f"test_turned.py:{next(i for i, row in enumerate(rows, 1) if row.endswith(f'# {mark}'))}"


@pytest.mark.parametrize(
    ("pool", "mark"), [(inverted, "inverted"), (filled_inverted, "shown, and filled")]
)
def test_lengths_compared_the_wrong_way_round_are_told_with_the_line(pool: Pool, mark: str) -> None:
    (told,) = found(subject(pool))
    assert told.verdict is Verdict.FAIL
    assert (told.source or "").endswith(line(mark))
    assert "`lengths`" in told.message
    assert "inverted: turned round there, it lets nothing hidden through" in told.message
    assert "as it is nothing visible is read" in told.message


@pytest.mark.parametrize("pool", [right, filled, both])
def test_a_mask_that_hides_what_it_should_is_not(pool: Pool) -> None:
    assert found(subject(pool)) == ()


def test_one_of_two_that_is_inverted_rests_on_the_guess() -> None:
    (told,) = found(subject(one_of_two))
    assert told.verdict is Verdict.WARN
    assert (told.source or "").endswith(line("the second one"))
    assert "nothing visible" not in told.message
    declared = Layout(masks=(Mask("lengths", ("ids",), "token", means="length"),))
    (sure,) = found(subject(one_of_two, declared))
    assert sure.verdict is Verdict.FAIL
