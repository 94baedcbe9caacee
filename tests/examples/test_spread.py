"""Real processes over which torch spreads a model: healthy they are silent, sick they are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nan_watch import NanWatch, PoisonedStep
from tests.examples import spread

pytestmark = pytest.mark.slow
Ranks = Callable[[int, Callable[[int], Any]], list[Any]]
SCRIPT = Path(spread.__file__)
PLANTED = 1 + [line.endswith("# planted") for line in SCRIPT.read_text().splitlines()].index(True)


@pytest.mark.parametrize("kind", spread.KINDS)
def test_healthy_it_is_equal_to_the_bit_and_silent_and_sick_it_is_named(
    kind: str, ranks: Ranks
) -> None:
    def work(rank: int) -> dict[str, Any]:
        return {state: spread.trained(kind, state, rank) for state in ("bare", "healthy", "sick")}

    count = spread.KINDS[kind][0]
    first_sick = count - 2 if kind.startswith("parallel") else count - 1
    for told in ranks(count, work):
        assert told["healthy"]["parameters"] == told["bare"]["parameters"]
        assert told["healthy"]["findings"] == []
        found = told["sick"]["findings"]
        assert found == [["NAN004", "aten.div", f"{SCRIPT}:{PLANTED}", [3], 2]]
        said = told["sick"]["messages"][0]
        assert said.endswith(f"of step 2, on rank {first_sick}.")
        assert "_to_copy" not in said
        split = "the step, replayed without tensor parallelism" in told["sick"]["evidence"]
        assert split == kind.startswith("parallel")


class Plain(nn.Module):
    """scale: of the output."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(6, 16), nn.Linear(16, 2)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.inner(x).tanh()) * self.scale
        return out


def refused(model: nn.Module, rank: int) -> list[Any]:
    """What is found in a step: code, site, message, fix and evidence."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(rank))
    watch = NanWatch(model, optimizer, out="run", timeout=30)
    try:
        with watch:
            F.cross_entropy(model(x).float(), (x[:, 0] > 0).long()).backward()
            optimizer.step()
    except PoisonedStep as refusal:
        found = refusal.finding
        return [found.code, found.site, found.message, found.fix, [e.what for e in found.evidence]]
    return []


def test_a_weight_that_only_its_copy_in_half_precision_cannot_hold(ranks: Ranks) -> None:
    def work(rank: int) -> list[Any]:
        torch.manual_seed(0)
        model = Plain()
        with torch.no_grad():
            model.head.weight[1, 9] = 1e5
        policy = {"param_dtype": torch.float16, "reduce_dtype": torch.float32}
        return refused(spread.sharded(model, whole=policy), rank)

    for code, site, message, fix, _ in ranks(2, work):
        assert (code, site) == ("NAN014", "head.weight")
        assert message.startswith(
            "`head.weight` outgrows float16, in which its module computes: a copy held 1 +inf"
        )
        assert "param_dtype=torch.bfloat16" in fix


def test_gradients_that_only_their_sum_over_processes_cannot_hold(ranks: Ranks) -> None:
    def work(rank: int) -> list[Any]:
        torch.manual_seed(0)
        return refused(spread.sharded(Plain(4e5), whole={"reduce_dtype": torch.float16}), rank)

    for code, _, message, fix, evidence in ranks(2, work):
        assert code == "NAN000"
        assert "though the gradient of every output is finite" in message
        assert "gradients are summed over the processes in" in evidence
        assert "reduce_dtype=torch.float32" in fix
