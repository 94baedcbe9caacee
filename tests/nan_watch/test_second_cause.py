"""Where one patch does not cure, the second cause is named, and the line that made the zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from probes.finding import Finding

CauseOf = Callable[..., Finding | None]

SCALE = torch.tensor([1.0, -1.0, 2.0])


def line(of: Callable[..., Tensor], below: int) -> str:
    return f"test_second_cause.py:{of.__code__.co_firstlineno + below}"


def likelihood(x: Tensor) -> Tensor:
    sigma = torch.relu(x)
    return (1 / (2 * sigma**2) + torch.log(sigma)).mean()


def apart(x: Tensor) -> Tensor:
    width = torch.relu(x)
    return (1 / width).mean() + torch.log(x.sub(x.max())).mean() + torch.acos(x * 3).mean()


def test_both_causes_are_named_and_confirmed_together(cause_of: CauseOf) -> None:
    found = cause_of(likelihood, SCALE)
    assert found is not None
    assert found.confirmed
    root, place = line(likelihood, 1), line(likelihood, 2)
    assert found.code == "NAN004"
    assert found.message.count("`aten.relu`") == 2
    assert found.message.count(root) == 2
    assert found.message.count(place) == 2
    assert "it is one of two causes: `aten.log`" in found.message
    assert found.fix.count("F.softplus") == 1
    assert "1e-09" not in found.fix
    assert root in found.fix
    assert found.evidence[0].value == "finite, and with either of the two elsewhere it is not"
    assert found.evidence[1].value == "not cured"


def test_what_no_second_patch_cures_is_said(cause_of: CauseOf) -> None:
    found = cause_of(apart, SCALE)
    assert found is not None
    assert found.confirmed is False
    assert "it is not the only cause: with that patched, `aten." in found.message


def by_zero_sums(x: Tensor) -> Tensor:
    weights = torch.relu(-x.abs())
    return (weights / weights.sum()).sum()


def by_equals(x: Tensor) -> Tensor:
    gap = x - x.detach()
    return (1 / (gap.square() * 3).view(3, 1)).sum()


def by_underflow(x: Tensor) -> Tensor:
    tiny = torch.exp(x - 200)
    return (x / (2 * tiny.clone())).sum()


def by_small_scale(x: Tensor) -> Tensor:
    tiny = x.abs() * 1e-30
    return (x / (tiny * 1e-30)).sum()


def cancelled(x: Tensor) -> Tensor:
    gate = F.relu(x) - F.relu(x.flip(0))
    return 1 / (gate * 2).sum()


@pytest.mark.parametrize(
    ("function", "op", "below", "softplus"),
    [
        (by_zero_sums, "aten.relu", 1, False),
        (by_equals, "aten.sub", 1, False),
        (by_underflow, "aten.exp", 1, False),
        (by_small_scale, "aten.mul", 2, False),
        (cancelled, "aten.sum", 2, False),
    ],
)
def test_a_zero_is_followed_to_what_made_it(
    function: Callable[..., Tensor], op: str, below: int, softplus: bool, cause_of: CauseOf
) -> None:
    found = cause_of(function, SCALE)
    assert found is not None
    assert f"`{op}` at " in found.message.partition("divides by 0, which ")[2]
    assert f"{line(function, below)} gave" in found.message
    assert ("softplus" in found.fix) is softplus
