"""Parameters that drift apart between real processes, and all that must not be called so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed import fsdp
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel as Ddp

from nan_watch import NanWatch
from nan_watch.replicas import A_STEP, Replicas

SHARDS = getattr(fsdp, "fully_shard", None)  # until torch made it public, it asked for CUDA
pytestmark = pytest.mark.slow
Ranks = Callable[[int, Callable[[int], Any]], list[Any]]
Average = Callable[[nn.Module], None]


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 2))


def nothing(model: nn.Module) -> None:
    """Gradients stay each rank's own."""


def averaged(model: nn.Module) -> None:
    for each in model.parameters():
        if each.grad is not None:
            dist.all_reduce(each.grad)
            each.grad /= dist.get_world_size()


def found(
    rank: int,
    model: nn.Module,
    average: Average = nothing,
    rate: float = 0.1,
    steps: int = 5,
    parts: int = 1,
    stepped: bool = False,
    after: Callable[[int, nn.Module], None] = lambda step, model: None,
) -> list[tuple[str, str, str, int | None]]:
    """What is said of a loop; of `parts` backward passes, all but the last under `no_sync()`."""
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    chance = torch.Generator().manual_seed(rank)
    with NanWatch(model, optimizer, timeout=30) as watch:
        for step in range(steps):
            for part in range(parts):
                x = torch.randn(8, 6, generator=chance)
                sync = part == parts - 1 and not stepped
                if isinstance(model, Ddp):
                    model.require_backward_grad_sync = sync  # what `no_sync()` does
                F.cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
            average(model)
            optimizer.step()
            optimizer.zero_grad()
            after(step, model)
    return [
        (each.verdict, each.site or "", each.message, each.step)
        for each in watch.findings
        if each.code == "GRD020"
    ]


def test_only_copies_that_are_torn_apart_are_told(ranks: Ranks) -> None:
    def work(rank: int) -> dict[str, Any]:
        def mean_of_all(step: int, model: nn.Module) -> None:
            for each in model.parameters() if step % 2 else ():
                dist.all_reduce(each.data)
                each.data /= dist.get_world_size()

        split = net(rank)
        for each in split.parameters():
            each.tensor_model_parallel = True  # type: ignore[attr-defined]
        late, passed = Ddp(net()), Ddp(net())
        with torch.no_grad():
            late.module[3].bias += rank  # as a checkpoint that rank 1 alone has read
        return {
            "ddp": found(rank, Ddp(net(rank))),
            "accumulated": found(rank, Ddp(net()), parts=3),
            "averaged by hand": found(rank, net(), averaged),
            **({"sharded": found(rank, SHARDS(net(rank)))} if SHARDS else {}),
            "local sgd": found(rank, net(), after=mean_of_all),
            "split": found(rank, split),
            "each its own": found(rank, net(rank)),
            "under no_sync": found(rank, Ddp(net()), stepped=True),
            "past its wrapper": found(rank, passed.module),
            "another start": found(rank, net(rank), averaged),
            "another rate": found(rank, Ddp(net()), rate=0.1 * (rank + 1)),
            "read by one": found(rank, late),
        }

    told, other = ranks(2, work)
    assert told == other
    for name in ("ddp", "accumulated"):
        assert told[name] == [], name
    sharded = ["sharded"] if SHARDS else []
    for name in ("averaged by hand", *sharded, "local sgd", "split", "each its own"):
        assert {each[0] for each in told[name]} == {"note"}, name
    for name in ("averaged by hand", *sharded, "split"):
        assert [each[1] for each in told[name]] == ["1.running_mean"], name
    start = "is not the same on all ranks: rank 1 differs since the update of step 0, because its"
    for name, why in (
        ("under no_sync", "a backward pass under `no_sync()`, or through the model inside"),
        ("past its wrapper", "a backward pass under `no_sync()`, or through the model inside"),
    ):
        verdict, site, message, step = told[name][0]
        assert (verdict, site, step) == ("fail", "0.weight", 0), name
        assert start in message
        assert why in message
    verdict, site, message, step = told["another start"][0]
    assert (verdict, site, step) == ("fail", "0.weight", 0)
    assert "rank 1 differs from the start, though its gradient is averaged" in message
    assert "though its gradient was the same: rates or optimizer" in told["another rate"][0][2]
    assert told["read by one"][0][:2] == ["fail", "3.bias"]


def test_a_model_of_which_nothing_lies_whole_on_a_rank_is_not_compared() -> None:
    replicas = Replicas(nn.Identity(), {})
    none = torch.zeros(0).double().numpy()
    assert replicas.waiting() == []
    assert replicas.take(0, replicas.own(none, none), none) == []


def test_a_large_model_is_compared_in_turn_and_what_is_odd_first() -> None:
    model = nn.Sequential(*(nn.Linear(1024, 512) for _ in range(4)))
    named = dict(model.named_parameters())
    replicas = Replicas(model, named)
    norms = torch.ones(len(named)).double().numpy()
    asked = []
    for step in range(4):
        [sums] = replicas.waiting()
        asked.append(sum(piece.last - piece.first for piece in replicas._turn))
        own = replicas.own(sums.double().numpy(), norms)
        high = own.copy()
        high[2 * len(replicas._turn) + 6] += 0.5 * (step == 3)  # the gradient of `3.weight`
        assert replicas.take(step, own, high) == []
    whole = sum(each.numel() for each in named.values())
    assert asked[0] == whole
    assert all(each <= A_STEP for each in asked[1:])
    assert {each.place for each in replicas._turn[:2]} == {6}
