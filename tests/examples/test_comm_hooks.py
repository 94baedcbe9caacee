"""Two real processes whose gradients a communication hook reduces, which outgrow it on one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from nan_watch import NanWatch, PoisonedStep

pytestmark = pytest.mark.slow
Ranks = Callable[[int, Callable[[int], Any]], list[Any]]
BAD, FIRST = 4, 2  # the step of large labels; the first in which PowerSGD compresses


def over_nothing(_, bucket):  # type: ignore[no-untyped-def]
    """Normalises, which is a division by nothing where no gradient is."""
    gone = bucket.buffer() / bucket.buffer().abs().amax().clamp(max=1.0).floor()
    return dist.all_reduce(gone, async_op=True).get_future().then(lambda f: f.value()[0])


def hooked(model: DistributedDataParallel, kind: str) -> None:
    if kind == "fp16":
        model.register_comm_hook(None, default_hooks.fp16_compress_hook)
    elif kind == "own":
        model.register_comm_hook(None, over_nothing)
    else:
        state = powerSGD_hook.PowerSGDState(None, 1, start_powerSGD_iter=FIRST)
        hook = powerSGD_hook.powerSGD_hook
        if kind == "both":
            hook = default_hooks.fp16_compress_wrapper(hook)
        model.register_comm_hook(state, hook)


def trained(rank: int, kind: str, *, large: float = 1.0, bare: bool = False) -> dict[str, Any]:
    """Six steps, in the fifth of which the second rank's labels are this much larger."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    model = DistributedDataParallel(net)
    hooked(model, kind)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    chance = torch.Generator().manual_seed(rank)

    def loop() -> None:
        for step in range(6):
            x, y = torch.randn(8, 6, generator=chance), torch.randn(8, 3, generator=chance)
            y = y * large if (step, rank) == (BAD, 1) else y
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()  # HERE
            optimizer.step()

    told: dict[str, Any] = {"findings": []}
    if bare:
        loop()
    else:
        watch = NanWatch(model, optimizer, out=f"{kind}{large}", timeout=30)
        try:
            with watch:
                loop()
        except PoisonedStep as refusal:
            told["message"] = refusal.finding.message
        told["findings"] = [(f.code, f.site, f.op, f.source, f.step) for f in watch.findings]
    told["parameters"] = [each.detach().flatten().tolist() for each in net.parameters()]
    return told


@pytest.mark.parametrize("kind", ["fp16", "both"])
def test_a_gradient_that_a_half_does_not_hold_is_the_hooks(kind: str, ranks: Ranks) -> None:
    lines = Path(__file__).read_text().splitlines()
    [at] = [i for i, text in enumerate(lines, 1) if text.endswith("# HERE")]
    for told in ranks(2, lambda rank: trained(rank, kind, large=1e6)):
        source = f"{__file__}:{at}"
        assert told["findings"] == [["NAN014", "0.weight", "aten._to_copy", source, BAD]]
        assert "of DistributedDataParallel sends it in that" in told["message"]
        assert told["message"].endswith("on rank 1.")


def test_what_another_hook_makes_of_finite_gradients_is_its_own(ranks: Ranks) -> None:
    for told in ranks(2, lambda rank: trained(rank, "own")):
        assert told["findings"][0][:2] == ["NAN000", "0.weight"]
        assert "once the communication hook `over_nothing` of Dist" in told["message"]


@pytest.mark.parametrize("kind", ["fp16", "power"])
def test_a_healthy_one_is_equal_to_the_bit_and_silent(kind: str, ranks: Ranks) -> None:
    def work(rank: int) -> Any:
        return trained(rank, kind, bare=True), trained(rank, kind)

    for bare, watched in ranks(2, work):
        assert watched["findings"] == []
        assert watched["parameters"] == bare["parameters"]
