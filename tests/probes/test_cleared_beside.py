"""Where a recurrent state is cleared, beside flags of where episodes begin or end."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

PLACES = 10


class Policy(nn.Module):
    """Carries a state over the places of a row. clears: by what flag, relative to the step."""

    def __init__(self, clears: str) -> None:
        super().__init__()
        self.cell, self.head, self.clears = nn.GRUCell(5, 8), nn.Linear(8, 1), clears

    def forward(self, seen: Tensor, first: Tensor) -> Tensor:
        flags = first.to(seen)
        h, given = seen.new_zeros(len(seen), 8), []
        for t in range(PLACES):
            at = min(t + 1, PLACES - 1) if self.clears == "early" else t
            keep = 1 - flags[:, at, None]
            before = self.clears in ("before", "early")
            x = torch.cat([seen[:, t], flags[:, t, None]], 1)
            out = self.cell(x, h * keep if before else h)
            h = out * keep if self.clears == "after" else out
            if self.clears == "held":
                h = flags[:, t, None] * out + keep * h
            given.append(self.head(out))
        result: Tensor = torch.cat(given, 1)
        return result


def said(clears: str, flags: str = "first", sign: bool = True) -> list[Finding]:
    """flags: of an episode's first or last step, or of what is no padding. sign: 1 where so."""
    seed_everything(0)
    first = torch.rand(40, PLACES) < 0.3
    first[:, 0] = True
    last = first.roll(-1, 1)
    there = torch.arange(PLACES) < torch.randint(3, PLACES + 1, (40, 1))
    key = {"first": first, "last": last, "there": there}[flags]
    batch = {
        "seen": torch.randn(40, PLACES, 4),
        "flag": (key if sign else ~key).float(),
        "value": torch.randn(40, PLACES),
    }

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        flag = batch["flag"] if sign else 1 - batch["flag"]
        return F.mse_loss(model(batch["seen"], flag), batch["value"])

    subject = Subject(Policy(clears), [batch], loss, lambda m: torch.optim.Adam(m.parameters()))
    return list(check(subject, chosen(["STA011"])).findings)


@pytest.mark.parametrize("sign", [True, False])
@pytest.mark.parametrize(("clears", "words"), [("after", "a step late"), ("early", "a step early")])
def test_a_state_that_is_cleared_beside_the_start_is_told(
    clears: str, words: str, sign: bool
) -> None:
    [found] = said(clears, sign=sign)
    assert words in found.message
    assert (found.site, f"`flag` is {int(sign)}" in found.message) == ("cell", True)


@pytest.mark.parametrize("sign", [True, False])
@pytest.mark.parametrize(
    ("clears", "flags"),
    [
        ("before", "first"),
        ("after", "last"),
        ("never", "first"),  # the flag is an input
        ("held", "there"),
        ("before", "last"),  # whether ends are flagged cannot be told
    ],
)
def test_a_state_that_is_cleared_where_the_flags_say_or_never_is_well(
    clears: str, flags: str, sign: bool
) -> None:
    assert said(clears, flags, sign) == []
