"""A state that is cleared within episodes and kept where one begins; rows or places first."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
ROWS, PLACES = 24, 12


class Policy(nn.Module):
    """Carries a state over places. by: what it is multiplied with. turned: places come first."""

    def __init__(self, by: str, turned: bool) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(4, 8), nn.Linear(8, 1)
        self.by, self.turned = by, turned

    def forward(self, seen: Tensor, flag: Tensor) -> Tensor:
        axis = 0 if self.turned else 1
        h, given = seen.new_zeros(seen.shape[1 - axis], 8), []
        for x, f in zip(seen.unbind(axis), flag.unbind(axis), strict=True):
            keep = f[:, None] if self.by == "flag" else 1 - f[:, None]
            h = self.cell(x, h * keep)
            given.append(self.head(h).squeeze(1))
        return torch.stack(given, axis)


def batch_of(kind: str) -> Batch:
    """flags: of first steps, which show a cue; of all others; or of what is no padding."""
    seen = 0.1 * torch.randn(ROWS, PLACES, 4)
    first = torch.rand(ROWS, PLACES) < 0.25
    first[:, 0] = True
    if kind == "there":
        first = torch.arange(PLACES) < torch.randint(2, PLACES, (ROWS, 1))
        seen *= first[..., None]
    if kind == "short":
        first = torch.arange(PLACES) < torch.randint(1, 6, (ROWS, 1))
        seen *= first[..., None]
    seen[..., 0] += first
    flag = first.clone()
    if kind == "goes on":  # whose first step goes on from nothing
        flag = ~first
        flag[:, 0] = True
    return {"seen": seen, "flag": flag.float(), "value": torch.randn(ROWS, PLACES)}


def said(code: str, by: str, turned: bool, kind: str = "first") -> list[Finding]:
    seed_everything(0)
    batch = batch_of(kind)
    if turned:
        batch = {key: tensor.transpose(0, 1).contiguous() for key, tensor in batch.items()}

    def predict(model: nn.Module, batch: Batch) -> Tensor:
        out: Tensor = model(batch["seen"], batch["flag"])
        return out

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.mse_loss(predict(model, batch), batch["value"])

    made = lambda m: torch.optim.Adam(m.parameters())  # noqa: E731
    subject = Subject(Policy(by, turned), [batch], loss, made, predict=predict)
    return list(check(subject, chosen([code])).findings)


@pytest.mark.parametrize("turned", [False, True])
def test_a_state_that_is_kept_where_an_episode_begins_is_told(turned: bool) -> None:
    [found] = said("STA011", "flag", turned)
    assert "within the episodes and kept where one begins" in found.message
    assert (found.site, found.verdict) == ("cell", Verdict.WARN)
    assert (f"`flag[{'t' if turned else ':, t'}]`") in found.fix


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("by", "kind"),
    [
        ("opposite", "first"),
        ("flag", "goes on"),  # it says what is kept
        ("flag", "there"),
        ("flag", "short"),  # padding is most of it, and all that is none looks like a first step
    ],
)
def test_a_state_that_is_cleared_by_what_the_flag_says_is_well(
    by: str, kind: str, turned: bool
) -> None:
    assert said("STA011", by, turned, kind) == []


@pytest.mark.parametrize("by", ["flag", "opposite"])
def test_what_goes_on_along_a_first_axis_of_time_is_no_dependence_on_the_batch(by: str) -> None:
    assert {found.verdict for found in said("MSK002", by, turned=True)} <= {Verdict.NOTE}
