"""Where one number a sample stands as a column and meets a row of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Terms = Callable[["Actor", Batch], Tensor]


class Actor(nn.Module):
    """Scores of actions and one number, of a state."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.policy, self.value = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 1)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(state).tanh()
        return self.policy(hidden), self.value(hidden)


def taken(model: Actor, batch: Batch) -> Tensor:
    return model(batch["x"])[0].log_softmax(1).gather(1, batch["a"][:, None])


def advantage(model: Actor, batch: Batch) -> Tensor:
    made = batch["ret"] - model(batch["x"])[1].detach()
    return -(taken(model, batch).squeeze(1) * (made - made.mean()) / made.std()).mean()


def weighted(model: Actor, batch: Batch) -> Tensor:
    wrong = batch["up"][:, None] != 0
    each = F.binary_cross_entropy_with_logits(model(batch["x"])[1], wrong.float(), reduction="none")
    return (batch["weight"] * each).mean()


def worse(model: Actor, batch: Batch) -> Tensor:
    old = model(batch["x"])[1].squeeze(-1) + 0.1
    return torch.max(taken(model, batch), old.detach()).mean()


def sliced(model: Actor, batch: Batch) -> Tensor:
    return (model(batch["x"])[1].squeeze(-1) / (1 + batch["x"][:, :1].abs())).mean()


def right(model: Actor, batch: Batch) -> Tensor:
    made = batch["ret"] - model(batch["x"])[1].squeeze(-1).detach()
    return -(taken(model, batch).squeeze(1) * made).mean()


def ranked(model: Actor, batch: Batch) -> Tensor:
    score = model(batch["x"])[1].squeeze(-1)
    order = (batch["ret"].unsqueeze(1) - batch["ret"]).sign()
    return F.softplus(-order * (score.unsqueeze(1) - score)).mean()


def all_pairs(model: Actor, batch: Batch) -> Tensor:
    score = model(batch["x"])[1]
    return (score - score.squeeze(1)).abs().mean() + (score - score.T).square().mean()


def energy(model: Actor, batch: Batch) -> Tensor:
    drawn, real = model(batch["x"])[1].squeeze(1), batch["ret"]
    return (drawn[:, None] - real).abs().mean() - 0.5 * (drawn[:, None] - drawn).abs().mean()


def kernel(model: Actor, batch: Batch) -> Tensor:
    one, two = model(batch["x"])[0], batch["x"][:, :4]
    square = one.square().sum(1, keepdim=True) + two.square().sum(1) - 2 * one @ two.T
    return square.neg().exp().mean()


def over_two(model: Actor, batch: Batch) -> Tensor:
    """Each of the good ones above each of the bad, by one module."""
    good, bad = model(batch["x"])[1], model(batch["x"].flip(0))[1].squeeze(1)
    return F.relu(1 - good + bad).mean()


def said(terms: Terms) -> list[tuple[str | None, str]]:
    seed_everything(0)
    batch = {
        "x": torch.randn(9, 6),
        "a": torch.randint(4, (9,)),
        "ret": torch.randn(9),
        "up": torch.randint(2, (9,)),
        "weight": torch.rand(9),
    }
    subject = Subject(
        Actor(),
        [batch],
        lambda model, b: terms(model, b),  # type: ignore[arg-type]
        lambda model: torch.optim.Adam(model.parameters()),
    )
    found = check(subject, chosen(["WIR009"])).findings
    assert all(one.verdict in (Verdict.WARN, Verdict.FAIL) for one in found)
    return [(one.op, one.message) for one in found]


@pytest.mark.parametrize(
    ("terms", "op", "words"),
    [
        (advantage, "sub", "(7, 1) (of `model[1]`) and (7,) (of `ret`)"),
        (weighted, "mul", "(of `weight`)"),
        (worse, "max", "(of `a`, `model[0]`) and (7,) (of `model[1]`)"),
        (sliced, "div", "(of `x`)"),
    ],
)
def test_a_column_that_came_with_its_axis_meets_a_row(terms: Terms, op: str, words: str) -> None:
    [(name, message)] = said(terms)
    assert name == op
    assert words in message


@pytest.mark.parametrize("terms", [right, ranked, all_pairs, energy, kernel, over_two])
def test_pairs_that_are_meant_are_silent(terms: Terms) -> None:
    assert said(terms) == []


Metric = Callable[[nn.Module, Batch], tuple[Tensor, int]]


def by_top(model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
    found = model(batch["x"])[0].topk(1).indices == batch["a"]
    return found.sum(), len(found)


def by_sign(model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
    found = (model(batch["x"])[1] > 0) == (batch["up"] > 0)
    return found.sum(), len(found)


def by_class(model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
    found = model(batch["x"])[0].argmax(1) == batch["a"]
    return found.sum(), len(found)


def by_order(model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
    score = model(batch["x"])[1].squeeze(1)
    found = (score[:, None] > score) == (batch["ret"][:, None] > batch["ret"])
    return found.sum(), found.numel()


@pytest.mark.parametrize(
    ("metric", "told"), [(by_top, True), (by_sign, True), (by_class, False), (by_order, False)]
)
def test_a_metric_that_compares_all_pairs_is_told(metric: Metric, told: bool) -> None:
    seed_everything(0)
    batch = {
        "x": torch.randn(9, 6),
        "a": torch.randint(4, (9,)),
        "ret": torch.randn(9),
        "up": torch.randint(2, (9,)),
    }
    subject = Subject(
        Actor(),
        [batch],
        lambda model, b: F.cross_entropy(model(b["x"])[0], b["a"]),
        lambda model: torch.optim.Adam(model.parameters()),
        metrics={"hits": metric},
    )
    found = check(subject, chosen(["WIR009"])).findings
    assert [one.op for one in found] == (["eq"] if told else [])
    assert all("in the metric `hits`" in one.message for one in found)


def of_graphs(count: int) -> Batch:
    """Nodes of graphs, how much is asked of each node and graph, and as many anchors in all."""
    graph = torch.arange(count).repeat_interleave(3)[:-1]
    return {
        "x": torch.randn(len(graph), 6),
        "graph": graph,
        "charge": torch.randn(len(graph)),
        "energy": torch.randn(count),
        "anchors": torch.randn(4),
    }


def pooled(model: Actor, batch: Batch) -> Tensor:
    each = model(batch["x"])[1]
    return torch.zeros(len(batch["energy"]), 1).index_add(0, batch["graph"], each)


def of_each_graph(model: Actor, batch: Batch) -> Tensor:
    return (pooled(model, batch) - batch["energy"]).square().mean()


def of_each_node(model: Actor, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch["x"])[1], batch["charge"])


def as_it_should(model: Actor, batch: Batch) -> Tensor:
    by_node = model(batch["x"])[1].squeeze(1) - batch["charge"]
    return F.mse_loss(pooled(model, batch)[:, 0], batch["energy"]) + by_node.square().mean()


def to_anchors(model: Actor, batch: Batch) -> Tensor:
    """All pairs are meant: as many as the graphs of the first batch are the anchors by chance."""
    return (pooled(model, batch) - batch["anchors"]).abs().mean()


def ends(model: Actor, batch: Batch) -> Tensor:
    """Both ends of all pairs of nodes have a number of their own module."""
    return (model(batch["x"])[1] + model.body(batch["x"])[:, 0]).relu().mean()


@pytest.mark.parametrize(
    ("terms", "size"),
    [(of_each_graph, 4), (of_each_node, 11), (as_it_should, 0), (to_anchors, 0), (ends, 0)],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_rows_of_a_batch_that_cannot_be_cut_are_told(terms: Terms, size: int) -> None:
    seed_everything(0)
    subject = Subject(
        Actor(),
        [of_graphs(4), of_graphs(7)],
        lambda model, b: terms(model, b),  # type: ignore[arg-type]
        lambda model: torch.optim.Adam(model.parameters()),
    )
    judged = check(subject, chosen(["WIR009"]))
    assert not judged.not_judged
    told = [
        f"({size}, 1)" in one.message and "every row meets" in one.message
        for one in judged.findings
    ]
    assert told == [True] * (size > 0)
