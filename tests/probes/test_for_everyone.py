"""Columns of every sample for every sample, and pairs that are meant."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict

Batch = dict[str, Tensor]
N, CLASSES = 8, 5


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.Tanh())
        self.scores, self.value = nn.Linear(16, CLASSES), nn.Linear(16, 1)
        self.table = nn.Parameter(torch.randn(N, CLASSES))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x)
        return self.scores(hidden), self.value(hidden).squeeze(-1)


def taken(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch["x"])[0][:, batch["at"]] - batch["y"]).square().mean()


def selected(model: nn.Module, batch: Batch) -> Tensor:
    picked = model(batch["x"])[0].index_select(1, batch["at"])
    return F.smooth_l1_loss(picked, batch["y"].expand_as(picked))


def policy(model: nn.Module, batch: Batch) -> Tensor:
    scores, value = model(batch["x"])
    logs = scores.log_softmax(-1)
    advantage = batch["y"] - value.detach()
    won = -(batch["y"] * logs[:, batch["at"]]).mean() + 0 * advantage.sum()
    return won + (value - batch["y"]).square().mean() + 0.01 * (logs.exp() * logs).sum(-1).mean()


def in_batch(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(batch["x"])[0][:, batch["at"]] - batch["y"]  # how often each item is drawn
    return F.cross_entropy(logits, torch.arange(len(logits)))


def on_the_diagonal(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch["x"])[0][:, batch["at"]].diagonal() - batch["y"]).square().mean()


def masked(model: nn.Module, batch: Batch) -> Tensor:
    same = batch["at"][:, None] == batch["at"]
    pairs = (model(batch["x"])[0][:, batch["at"]] - batch["y"]).square()
    return (pairs * same).sum() / same.sum()


def shared_negatives(model: nn.Module, batch: Batch) -> Tensor:
    scores = model(batch["x"])[0]
    own = scores.gather(1, batch["label"][:, None])
    return F.softplus(-own).mean() + F.softplus(scores[:, batch["at"]]).mean()


def of_a_table(model: Net, batch: Batch) -> Tensor:
    held = model.table[:, batch["at"]].mean(0)  # as many rows as samples, by chance
    return (held * model(batch["x"])[1] - batch["y"]).square().mean()


def one_of_each(model: nn.Module, batch: Batch) -> Tensor:
    rows = torch.arange(len(batch["x"]))
    return (model(batch["x"])[0][rows, batch["at"]] - batch["y"]).square().mean()


def found(loss: Callable[[Net, Batch], Tensor]) -> tuple[Finding, ...]:
    torch.manual_seed(0)
    batch = {"x": torch.randn(N, 6), "at": torch.tensor([0, 3, 1, 4, 2, 2, 0, 1])}
    batch |= {"y": torch.randn(N), "label": torch.tensor([1, 1, 0, 4, 3, 2, 2, 0])}
    adam = lambda model: torch.optim.Adam(model.parameters())  # noqa: E731
    return check(Subject(Net(), [batch], loss, adam), chosen(["WIR056"])).findings


@pytest.mark.parametrize("loss", [taken, selected, policy])
def test_columns_that_belong_to_samples_and_rows_to_nobody(
    loss: Callable[[Net, Batch], Tensor],
) -> None:
    (one,) = found(loss)
    assert (one.code, one.verdict, one.site) == ("WIR056", Verdict.FAIL, "<loss>")
    assert "`at`, one a sample, is put at axis 1 of" in one.message
    assert one.source is not None


@pytest.mark.parametrize(
    "loss",
    [in_batch, on_the_diagonal, masked, shared_negatives, of_a_table, one_of_each],
)
def test_pairs_that_are_meant(loss: Callable[[Net, Batch], Tensor]) -> None:
    assert found(loss) == ()
