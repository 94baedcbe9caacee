"""Real processes inside `join()`, of which some have fewer batches than others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms.join import Join
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from nan_watch import NanWatch, PoisonedStep

pytestmark = pytest.mark.slow
Ranks = Callable[[int, Callable[[int], Any]], list[Any]]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.head = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 2)

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        hidden = self.norm(self.inner(x)).tanh().square()
        logits: Tensor = self.head(hidden * length[:, None] / length[:, None])  # planted
        return logits


def optimizer_of(kind: str, model: nn.Module) -> Any:
    if kind == "zero":
        from torch.distributed.optim import ZeroRedundancyOptimizer

        return ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=1e-2)
    chosen = torch.optim.AdamW if kind == "adam" else torch.optim.SGD
    return chosen(model.parameters(), lr=1e-2)


def trained(rank: int, kind: str, state: str, sick: tuple[int, int] | None = None) -> Any:
    """Two rounds, of four batches at rank 0, six at rank 1, and so on.

    state: `bare`, or what the watch does on a poisoned step. sick: the rank and the step that is.
    """
    torch.manual_seed(0)
    model = DistributedDataParallel(Net())
    optimizer = optimizer_of(kind, model)
    chance = torch.Generator().manual_seed(rank)
    batches, at = 4 + 2 * rank, 0
    parts = 2 if kind == "parts" else 1

    def loop() -> None:
        nonlocal at
        for _ in range(2):
            with Join([model, optimizer]) if kind == "zero" else model.join():
                for part in range(batches):
                    x, length = torch.randn(8, 6, generator=chance), torch.full((8,), 5.0)
                    if (rank, at) == sick:
                        length[3] = 0.0
                    last = part % parts == parts - 1
                    with nullcontext() if last else model.no_sync():
                        F.cross_entropy(model(x, length), (x[:, 0] > 0).long()).backward()
                    at += 1
                    if last:
                        optimizer.step()
                        optimizer.zero_grad()

    told: dict[str, Any] = {}
    if state == "bare":
        loop()
    else:
        name = f"{state}{sick}"
        watch = NanWatch(model, optimizer, out=name, timeout=30, on_poison=state)  # type: ignore[arg-type]
        try:
            with watch:
                loop()
        except PoisonedStep as refusal:
            told["raised"] = refusal.finding.message
        told["findings"] = [(f.code, f.source, f.step) for f in watch.findings]
        told["messages"] = [f.message for f in watch.findings]
    told["at"] = at
    told["parameters"] = [each.detach().flatten().tolist() for each in model.parameters()]
    return told


def planted() -> str:
    lines = Path(__file__).read_text().splitlines()
    [line] = [i for i, text in enumerate(lines, 1) if text.endswith("# planted")]
    return f"{__file__}:{line}"


@pytest.mark.parametrize(("kind", "count"), [("plain", 2), ("plain", 3), ("parts", 2)])
def test_healthy_ranks_are_equal_to_the_bit_and_silent(kind: str, count: int, ranks: Ranks) -> None:
    def work(rank: int) -> Any:
        return trained(rank, kind, "bare"), trained(rank, kind, "raise")

    for bare, watched in ranks(count, work):
        assert watched["parameters"] == bare["parameters"]
        assert watched["findings"] == []


@pytest.mark.parametrize("kind", ["plain", "parts"])
def test_all_ranks_end_at_a_step_that_one_refuses_while_another_waits(
    kind: str, ranks: Ranks
) -> None:
    step = 5 if kind == "plain" else 2
    for told in ranks(2, lambda rank: trained(rank, kind, "raise", (1, 5))):
        assert told["findings"] == [["NAN004", planted(), step]]
        assert told["raised"].endswith(f"of step {step}, on rank 1.")


def test_a_step_is_skipped_while_another_waits_and_one_that_all_take_is_too(ranks: Ranks) -> None:
    def work(rank: int) -> Any:
        return trained(rank, "plain", "skip", (2, 6)), trained(rank, "plain", "skip", (0, 2))

    for rank, (alone, together) in enumerate(ranks(3, work)):
        assert alone["findings"] == [["NAN004", planted(), 6]]
        assert together["findings"] == [["NAN004", planted(), 2]]
        assert alone["at"] == together["at"] == 2 * (4 + 2 * rank)
        assert "raised" not in alone


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("sick", [None, (1, 5)])
def test_an_optimizer_that_joins_as_well(sick: tuple[int, int] | None, ranks: Ranks) -> None:
    def work(rank: int) -> Any:
        bare = trained(rank, "zero", "bare") if sick is None else {}
        return bare, trained(rank, "zero", "raise", sick)

    for bare, watched in ranks(2, work):
        if sick is None:
            assert watched["parameters"] == bare["parameters"]
            assert watched["findings"] == []
        else:
            assert watched["raised"].endswith("of step 5, on rank 1.")


def test_optimizers_whose_states_differ_after_it_are_told(ranks: Ranks) -> None:
    for told in ranks(2, lambda rank: trained(rank, "adam", "raise")):
        [[code, _, _]] = told["findings"]
        assert code == "GRD020"
        assert "took none of the others' steps, so that optimizer states" in told["messages"][0]


def test_one_that_throws_ends_as_it_does_without_the_watch(ranks: Ranks) -> None:
    def work(rank: int) -> str:
        model = DistributedDataParallel(Net())
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        length = torch.full((8,), 5.0)
        watch = NanWatch(model, optimizer, out="run", timeout=30)
        try:
            with watch, model.join(throw_on_early_termination=True):
                for _ in range(2 + rank):
                    model(torch.randn(8, 6), length).sum().backward()
                    optimizer.step()
        except RuntimeError as error:
            return str(error)
        return ""

    first, second = ranks(2, work)
    assert first == "Rank 0 exhausted all inputs."
    assert second.startswith("Detected at least one rank that exhausted inputs.")
