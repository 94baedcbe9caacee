"""A key that nobody reads, and one of the same kind that is read twice in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Loss = Callable[[Any, Any], Tensor]
ROWS = 12


class Encoder(nn.Module):
    """Of ids or numbers, with dropout or without."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.word, self.front = nn.Embedding(30, 8, padding_idx=0), nn.Linear(8, 8)
        self.norm, self.drop = nn.LayerNorm(8), nn.Dropout(dropout)
        self.actor, self.critic, self.head = nn.Linear(8, 3), nn.Linear(8, 1), nn.Linear(16, 1)

    def encode(self, x: Tensor) -> Tensor:
        hidden = x if x.is_floating_point() else self.word(x).mean(1)
        coded: Tensor = self.norm(self.drop(self.front(hidden).tanh()))
        return coded

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        u, v = self.encode(one), self.encode(two)
        logits: Tensor = self.head(torch.cat([(u - v).abs(), u * v], -1))
        return logits.squeeze(-1)


def texts() -> Tensor:
    keep = torch.arange(7) < torch.randint(3, 8, (ROWS, 1))
    return torch.where(keep, torch.randint(1, 30, (ROWS, 7)), 0)


def ids() -> dict[str, Tensor]:
    return {"a": texts(), "b": texts(), "c": texts(), "same": torch.arange(ROWS) % 2 * 1.0}


def numbers() -> dict[str, Tensor]:
    return {k: torch.randn(ROWS, 8) for k in "abc"} | {"same": torch.arange(ROWS) % 2 * 1.0}


def judged(loss: Loss, batch: Any, dropout: float = 0.0) -> tuple[Finding, ...]:
    subject = Subject(
        Encoder(dropout),
        [batch],
        loss,
        lambda m: torch.optim.Adam(m.parameters(), 1e-3),
        predict=first,
    )
    return check(subject, chosen(["WIR007"])).findings


def first(m: Any, b: Any) -> Any:
    return m.encode(b["a" if isinstance(b, dict) else 0])


def pairs(one: Any, two: Any, same: Any = "same") -> Loss:
    return lambda m, b: F.binary_cross_entropy_with_logits(m(b[one], b[two]), b[same])


def triplet(one: str, two: str, three: str) -> Loss:
    def loss(m: Any, b: Any) -> Tensor:
        anchor, near, far = (m.encode(b[each]) for each in (one, two, three))
        return F.triplet_margin_loss(anchor, near, far, margin=9.0)

    return loss


def contrast(m: Any, b: Any) -> Any:
    u, v = (F.normalize(m.encode(b[k]), dim=-1) for k in ("a", "a"))
    return F.cross_entropy(u @ v.T / 0.1, torch.arange(len(u)))


def scored_contrast(m: Any, b: Any) -> Any:
    u, v = m.encode(b["a"]), m.encode(b["a"])
    return F.binary_cross_entropy_with_logits(m.critic(u).squeeze(-1), b["same"]) + F.mse_loss(u, v)


def acts(m: Any, b: Any) -> Any:
    taken = m.actor(m.encode(b["a"])).log_softmax(-1)[:, 0]
    value = m.critic(m.encode(b["a"])).squeeze(-1)
    ratio, gain = (taken - taken.detach()).exp(), b["same"] - value.detach()
    gains = torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain)
    return ((value - b["same"]) ** 2).mean() - gains.mean()


def keeps_near(m: Any, b: Any) -> Any:
    with torch.no_grad():
        old = m.actor(m.encode(b["a"])).log_softmax(-1)[:, 0]
    new = m.actor(m.encode(b["a"])).log_softmax(-1)[:, 0]
    return -((new - old).exp() * b["same"]).mean()


@pytest.mark.parametrize("made", [ids, numbers])
@pytest.mark.parametrize(
    ("loss", "dropout"),
    [
        (pairs("a", "a"), 0.0),
        (pairs("a", "a"), 0.2),
        (triplet("a", "b", "b"), 0.0),
        (triplet("a", "a", "c"), 0.0),
        (contrast, 0.0),
    ],
)
def test_a_key_that_another_of_its_kind_is_read_twice_for_is_told(
    made: Callable[[], Any], loss: Loss, dropout: float
) -> None:
    seed_everything(0)
    found = [each for each in judged(loss, made(), dropout) if each.verdict is Verdict.WARN]
    assert found
    assert all("twice" in each.message for each in found)


def test_the_second_call_has_its_line_and_parts_of_a_tuple_their_numbers() -> None:
    seed_everything(0)
    batch = tuple(each for key, each in ids().items() if key != "c")
    (found,) = judged(pairs(0, 0, 2), batch)
    assert found.message.startswith("`word` is given `0` twice, and nobody reads `1`")
    assert found.site == "word"
    assert "test_same_twice.py" in str(found.source)


def with_marks() -> dict[str, Tensor]:
    """Texts, and what is read by nobody and of another kind."""
    return {
        "a": texts(),
        "place": torch.arange(7).repeat(ROWS, 1),
        "kind": (torch.arange(7) > 3).long().repeat(ROWS, 1),
        "row": torch.arange(ROWS),
        "same": torch.arange(ROWS) % 2 * 1.0,
    }


@pytest.mark.parametrize(
    ("loss", "made", "dropout"),
    [
        (pairs("a", "b"), ids, 0.2),  # `c` is not read, and nothing is read twice
        (contrast, ids, 0.2),  # one text against itself, under two draws
        (scored_contrast, ids, 0.2),
        (acts, numbers, 0.0),  # what comes next may be in the batch of a policy
        (keeps_near, numbers, 0.0),
        (pairs("a", "a"), with_marks, 0.0),
    ],
)
def test_a_key_that_is_not_missed_stays_a_note(
    loss: Loss, made: Callable[[], Any], dropout: float
) -> None:
    seed_everything(0)
    found = judged(loss, made(), dropout)
    assert all(each.verdict is Verdict.NOTE for each in found)
