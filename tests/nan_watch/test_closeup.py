"""The lens: the call at a birth, the forward call of a backward one, and who made what it read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nan_watch.origin.closeup import Closeup
from nan_watch.origin.find import find_origin
from probes.replay import Snapshot

INF = float("inf")


class Computed(nn.Module):
    def __init__(self, *given: float) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor(given))


def closeup_of(function: Callable[[Tensor], Tensor], *given: float) -> Closeup:
    model = Computed(*given)

    def step() -> Tensor:
        loss = function(model.x)
        loss.backward()
        return loss

    found = find_origin(model, step, Snapshot.take(model))
    assert found is not None
    assert found.closeup is not None
    return found.closeup


def test_a_forward_birth_is_its_own_written_call() -> None:
    seen = closeup_of(lambda x: (x * 2).log().sum(), 0.0, 1.0, -3.0)
    assert seen.forward is None
    assert seen.written is seen.birth
    assert seen.birth.op == "aten.log"
    assert (seen.birth.source or "").startswith(str(Path(__file__)))
    assert seen.birth.tensors[0].tolist() == [0.0, 2.0, -6.0]


@pytest.mark.parametrize(
    ("function", "op", "birth"),
    [
        (lambda x: (x * 1).sqrt().sum(), "aten.sqrt", "aten.div"),
        (lambda x: (x * 1).sqrt_().sum(), "aten.sqrt_", "aten.div"),
        (lambda x: (x + 1).acos().sum(), "aten.acos", "aten.rsqrt"),
        (lambda x: (x + 1).acos_().sum(), "aten.acos_", "aten.rsqrt"),
        (lambda x: (x.exp() + 1).mul(x.pow(0.5)).sum(), "aten.pow", "aten.pow"),
        (lambda x: torch.xlogy(x, x).sum(), "aten.xlogy", "aten.div"),
    ],
)
def test_a_backward_birth_has_its_forward_call(
    function: Callable[[Tensor], Tensor], op: str, birth: str
) -> None:
    seen = closeup_of(function, 0.0, -0.5) if "acos" in op else closeup_of(function, 0.0, 0.5)
    assert seen.forward is not None
    assert seen.written is seen.forward
    assert (seen.forward.op, seen.birth.op) == (op, birth)
    first = seen.forward.values(0)
    assert first is not None
    assert first[0] == (1.0 if "acos" in op else 0.0)


def test_what_was_read_is_a_copy_from_before_the_call() -> None:
    seen = closeup_of(lambda x: (x * 1).log_().sum(), 0.0, 1.0)
    assert seen.birth.tensors[0].tolist() == [0.0, 1.0]
    assert seen.birth.out is not None
    assert seen.birth.out.tolist() == [-INF, 0.0]


def test_at_bad_reads_only_where_the_birth_is_not_finite() -> None:
    seen = closeup_of(lambda x: (x * 2).log().sum(), 0.0, 1.0, 3.0)
    at = seen.at_bad(0)
    assert at is not None
    assert at.tolist() == [0.0]


def test_a_nan_hides_the_infinities_beside_it() -> None:
    seen = closeup_of(lambda x: (x - INF * torch.tensor([1.0, -1.0])).sub(INF).sum(), 0.0, 0.0)
    at = seen.at_bad(0)
    assert seen.birth.op == "aten.sub"
    assert at is not None
    assert at.tolist() == [INF]


def test_whole_numbers_are_read_as_well() -> None:
    count = torch.tensor([0, 2])
    seen = closeup_of(lambda x: (x / count).sum(), 1.0, 1.0)
    at = seen.at_bad(1)
    assert seen.birth.values(1) is None
    assert at is not None
    assert at.tolist() == [0.0]


def test_who_made_what_was_read_and_who_made_that() -> None:
    seen = closeup_of(lambda x: (x.exp() - 1).relu().view(2).log().sum(), 0.0, 1.0)
    line = [made.op for made in seen.birth.made[0].line()]
    assert line == ["aten.relu", "aten.sub", "aten.exp"]
    made = seen.birth.made[0]
    assert made.largest == pytest.approx(torch.e - 1)
    assert made.node is None
    assert made.dtype is torch.float32
    assert (made.source or "").startswith(str(Path(__file__)))


def test_what_was_there_before_the_step_was_made_by_nobody() -> None:
    seen = closeup_of(lambda x: x.log().sum(), 0.0, 1.0)
    assert dict(seen.birth.made) == {}


def test_in_a_backward_pass_makers_have_their_node() -> None:
    seen = closeup_of(lambda x: torch.where(x > 0, x.sqrt(), 0.0).sum(), 0.0, 1.0)
    nodes = {made.node for each in seen.birth.made.values() for made in each.line()}
    assert "WhereBackward0" in nodes
