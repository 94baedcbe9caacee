"""What trained modules give, and the code lets go before anybody reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.reading.unread_names import Unread, unread_at
from probes.seeding import seed_everything

# ruff: noqa: F841


class Net(nn.Module):
    def __init__(self, forward: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.kind = nn.Linear(4, 8), nn.Embedding(3, 8)
        self.norm, self.layers = nn.LayerNorm(8), nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.head, self.gated, self.of = nn.Linear(8, 3), False, forward
        self.time = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 8))
        self.seen: list[Tensor] = []
        self.layers[0].register_forward_hook(lambda *given: self.seen.append(given[2]))

    def forward(self, x: Tensor, kind: Tensor) -> Tensor:
        logits: Tensor = self.head(self.of(self, x, kind))
        return logits


def set_anew(net: Any, x: Tensor, kind: Tensor) -> Tensor:
    emb = net.time(x)
    emb = net.kind(kind)  # set_anew
    return F.relu(net.inner(x) + emb)


def by_way(net: Any, x: Tensor, kind: Tensor) -> Tensor:
    emb = net.time(x)
    wide = emb * 2
    wide = net.kind(kind)  # by_way
    return F.relu(net.inner(x) + wide)


def never(net: Any, x: Tensor, kind: Tensor) -> Tensor:
    hidden = net.inner(x) + net.kind(kind)
    normed = net.norm(hidden)  # never
    return F.relu(hidden)


def by_round(net: Any, x: Tensor, kind: Tensor) -> Tensor:
    hidden = net.inner(x) + net.kind(kind)
    out: Tensor
    for layer in net.layers:
        out = layer(hidden).relu()  # by_round
    return out


def not_kept(net: Any, x: Tensor, kind: Tensor) -> Tensor:
    hidden: Tensor = net.inner(x) + net.kind(kind)
    net.norm(hidden)  # not_kept
    return hidden


def with_switch(net: Any, x: Tensor, kind: Tensor) -> Tensor:
    hidden: Tensor = net.inner(x) + net.kind(kind)
    gate = net.norm(hidden)
    if net.gated:
        hidden = hidden * gate
    return hidden


def of_several(net: Any, x: Tensor, kind: Tensor) -> Tensor:
    hidden, _ = both(net, x, kind)
    return hidden


def both(net: Any, x: Tensor, kind: Tensor) -> tuple[Tensor, Tensor]:
    hidden: Tensor = net.inner(x) + net.kind(kind)
    pooled = net.norm(hidden)
    return hidden, pooled


def by_hook(net: Any, x: Tensor, kind: Tensor) -> Tensor:
    net.seen.clear()
    body, first = nn.Sequential(*net.layers), net.inner(x) + net.kind(kind)
    out = body(first)
    hidden: Tensor = net.seen[0]
    return hidden


def warned(forward: Callable[[Any, Tensor, Tensor], Tensor]) -> list[Finding]:
    seed_everything(0)
    batch = {"x": torch.randn(9, 4), "kind": torch.arange(9) % 3, "y": torch.arange(9) % 3}
    subject = Subject(
        Net(forward),
        [batch],
        lambda model, b: F.cross_entropy(model(b["x"], b["kind"]), b["y"]),
        lambda model: torch.optim.Adam(model.parameters(), lr=1e-3),
    )
    found = check(subject, chosen(only=["WIR002", "WIR007"])).findings
    return [each for each in found if each.verdict.rank > Verdict.NOTE.rank]


@pytest.mark.parametrize(
    ("forward", "site", "words"),
    [
        (set_anew, "time", "kept as `emb`, which line"),
        (by_way, "time", "kept as `wide`, which line"),
        (never, "norm", "kept as `normed`, which nobody reads"),
        (by_round, "layers", "kept as `out`, which every round of the loop sets anew"),
        (not_kept, "norm", "`norm` gives is not kept"),
    ],
)
def test_what_a_module_gives_and_nobody_reads_is_told_with_its_line(
    forward: Callable[[Any, Tensor, Tensor], Tensor], site: str, words: str
) -> None:
    [found] = warned(forward)
    assert (found.code, found.site) == ("WIR002", site)
    assert words in found.message
    rows = Path(__file__).read_text().splitlines()
    line = next(i for i, row in enumerate(rows, 1) if row.endswith(f"# {forward.__name__}"))
    assert str(found.source).endswith(f"test_unread_results.py:{line}")


@pytest.mark.parametrize("forward", [with_switch, of_several, by_hook])
def test_what_may_be_read_or_is_handed_back_is_no_warning(
    forward: Callable[[Any, Tensor, Tensor], Tensor],
) -> None:
    assert warned(forward) == []


def leaps(rows: list[int]) -> int:
    for row in rows:
        last = row + 1
        if row:
            break
        last = 0
    return last


def branches(rows: list[int]) -> int:
    last = 1
    if rows:
        last = 2
    return last


def inside(rows: list[int]) -> list[int]:
    last = 1
    found = [0 for _ in rows if (lambda: last)()]
    last = 2
    return found


def carried(rows: list[int]) -> int:
    last, whole = 0, 0
    for row in rows:
        whole += last
        last = row
    return whole


def tried(rows: list[int]) -> int:
    try:
        last = rows[0]
        last = rows[1]
    except IndexError:
        return 0
    return last


def added(rows: list[int]) -> None:
    last = rows
    last += [1]


@pytest.mark.parametrize(
    ("function", "line"),
    [(leaps, 2), (branches, 1), (inside, 1), (carried, 4), (tried, 2), (added, 1)],
)
def test_a_name_that_some_way_through_the_code_may_read_is_read(
    function: Callable[..., object], line: int
) -> None:
    code = function.__code__
    assert unread_at(code, code.co_firstlineno + line) is None


def test_a_name_that_both_branches_set_anew_is_not_read() -> None:
    code = both_branches.__code__
    first = code.co_firstlineno
    assert unread_at(code, first + 1) == Unread("last", first + 1, first + 2)


def both_branches(rows: list[int]) -> int:
    last = 1
    if rows:
        last = 2
    else:
        last, _ = 3, rows
    return last
