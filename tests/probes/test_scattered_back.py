"""Rows that are picked by an index and added up by the same one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Work = Callable[["Net", Tensor, Batch], Tensor]
NODES, EDGES, WIDTH = 14, 40, 5


class Net(nn.Module):
    """A number for each node, by what `work` makes of its neighbours."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.read, self.head, self.work = nn.Linear(WIDTH, WIDTH), nn.Linear(2 * WIDTH, 1), work
        self.ask, self.table = nn.Linear(2 * WIDTH, 1), nn.Embedding(NODES, WIDTH)
        self.join = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, batch: Batch) -> Tensor:
        x = self.read(batch["x"]).tanh()
        found: Tensor = self.head(torch.cat([x, self.work(self, x, batch)], 1))[:, 0]
        return found


def said(work: Work, form: str = "rows") -> list[Finding]:
    seed_everything(0)
    x = torch.randn(NODES, WIDTH)
    edges = torch.randint(0, NODES, (2, EDGES))
    batch = {"x": x, "y": x[:, 0], "weight": torch.rand(EDGES)}
    if form in ("rows", "columns", "kinds"):
        batch["edges"] = edges.t().contiguous() if form == "columns" else edges
    if form == "two ways":
        batch["edges"] = torch.cat([edges, edges.flip(0)], 1)
    if form == "kinds":
        batch["told"] = torch.randn(EDGES, WIDTH)
    if form == "keys":
        batch = {"x": x, "y": x[:, 0], "source": edges[0], "end": edges[1]}
    subject = Subject(
        Net(work),
        [batch],
        lambda model, batch: F.mse_loss(model(batch), batch["y"]),
        lambda model: torch.optim.Adam(model.parameters()),
        predict=lambda model, batch: model(batch),
    )
    return list(check(subject, chosen(["IDX028"])).findings)


def added(x: Tensor, picked: Tensor, at: Tensor) -> Tensor:
    return torch.zeros_like(x).index_add(0, at, picked)


def plain(net: Net, x: Tensor, batch: Batch) -> Tensor:
    start, _ = batch["edges"]
    return added(x, x[start], start)


def weighed(net: Net, x: Tensor, batch: Batch) -> Tensor:
    start = batch["edges"][0]
    given = net.read(x.index_select(0, start)).relu() * batch["weight"][:, None]
    return torch.zeros_like(x).scatter_add_(0, start[:, None].expand(-1, WIDTH), given)


def with_loops(net: Net, x: Tensor, batch: Batch) -> Tensor:
    start = torch.cat([batch["edges"][0], torch.arange(NODES)])
    return torch.zeros_like(x).index_put((start,), x[start], accumulate=True)


def of_table(net: Net, x: Tensor, batch: Batch) -> Tensor:
    start = batch["edges"][1]
    index = start[:, None].expand(-1, WIDTH)
    return torch.zeros_like(x).scatter_reduce(0, index, net.table(start), "mean")


def of_columns(net: Net, x: Tensor, batch: Batch) -> Tensor:
    start = batch["edges"][:, 0]
    return added(x, x[start], start)


def of_numbers(net: Net, x: Tensor, batch: Batch) -> Tensor:
    start, _ = batch["edges"]
    return x * added(x[:, 0], x[:, 0][start], start)[:, None]


def of_keys(net: Net, x: Tensor, batch: Batch) -> Tensor:
    return added(x, x[batch["source"]], batch["source"])


@pytest.mark.parametrize(
    ("work", "form", "unread"),
    [
        (plain, "rows", "row 1 of `edges`"),
        (plain, "two ways", "row 1 of `edges`"),
        (weighed, "rows", "row 1 of `edges`"),
        (with_loops, "rows", "row 1 of `edges`"),
        (of_table, "rows", "row 0 of `edges`"),
        (of_columns, "columns", "column 1 of `edges`"),
        (of_numbers, "rows", "row 1 of `edges`"),
        (of_keys, "keys", "`end`"),
    ],
)
def test_what_comes_back_to_where_it_was_is_told(work: Work, form: str, unread: str) -> None:
    (finding,) = said(work, form)
    assert finding.verdict is Verdict.WARN
    assert f"nobody reads {unread}:" in finding.message
    assert (finding.source or "").startswith("tests/probes/test_scattered_back.py:")


def told_by_edges(net: Net, x: Tensor, batch: Batch) -> Tensor:
    start = batch["edges"][0]
    return added(x, net.join(torch.cat([x[start], batch["told"]], 1)), start)


def test_what_edges_tell_beside_their_ends_makes_a_note_of_it() -> None:
    assert [each.verdict for each in said(told_by_edges, "kinds")] == [Verdict.NOTE]


def passed_on(net: Net, x: Tensor, batch: Batch) -> Tensor:
    start, end = batch["edges"]
    return added(x, x[start], end)


def both_ends(net: Net, x: Tensor, batch: Batch) -> Tensor:
    start, end = batch["edges"]
    return added(x, net.join(torch.cat([x[start], x[end]], 1)), start)


def loops_alone(net: Net, x: Tensor, batch: Batch) -> Tensor:
    start, end = (torch.cat([each, torch.arange(NODES)]) for each in batch["edges"])
    return added(x, x[start], end)


def attended(net: Net, x: Tensor, batch: Batch) -> Tensor:
    """A softmax over the edges that end at a node: its largest is picked by the end again."""
    start, end = batch["edges"]
    score = net.ask(torch.cat([x[start], x[end]], 1))[:, 0]
    most = torch.full((NODES,), -9.0).scatter_reduce(0, end, score, "amax")
    weight = (score - most[end]).exp()
    total = torch.zeros(NODES).index_add(0, end, weight)
    return added(x, x[start] * (weight / total[end])[:, None], end)


def of_edges_alone(net: Net, x: Tensor, batch: Batch) -> Tensor:
    """What edges tell, at their starts; their ends are nobody's."""
    return added(x, batch["told"], batch["edges"][0])


def degrees(net: Net, x: Tensor, batch: Batch) -> Tensor:
    count = torch.zeros(NODES).index_add(0, batch["edges"][0], torch.ones(EDGES))
    return x * count[:, None]


def at_rest(net: Net, x: Tensor, batch: Batch) -> Tensor:
    """A branch that begins at zero moves nothing yet."""
    return 0.0 * attended(net, x, batch) + degrees(net, x, batch)


@pytest.mark.parametrize(
    ("work", "form"),
    [
        (passed_on, "rows"),
        (passed_on, "two ways"),
        (both_ends, "rows"),
        (loops_alone, "rows"),
        (attended, "rows"),
        (of_edges_alone, "kinds"),
        (degrees, "rows"),
        (at_rest, "rows"),
    ],
)
def test_nothing_is_said_where_rows_are_handed_on(work: Work, form: str) -> None:
    assert said(work, form) == []
