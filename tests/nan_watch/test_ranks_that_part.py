"""Real processes of which one holds another model, is gone, or does not take part."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from nan_watch import NanWatch
from probes.errors import RequestError

pytestmark = pytest.mark.slow
Ranks = Callable[[int, Callable[[int], Any]], list[Any]]
WAIT = 5.0


def net(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 2))


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(8, 6)), torch.arange(8) % 2).backward()
        optimizer.step()


def refused(model: nn.Module, count: int = 3, out: str = "run") -> str:
    """What is said to a rank that takes so many steps; empty where nothing is."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    try:
        with NanWatch(model, optimizer, out=out, timeout=WAIT):
            steps(model, optimizer, count)
    except RequestError as error:
        return str(error)
    except RuntimeError as error:
        return " ".join(getattr(error, "__notes__", []))
    return ""


def test_the_first_parameter_that_differs_between_ranks_is_named(ranks: Ranks) -> None:
    said = ranks(2, lambda rank: refused(net(8 + rank)))
    assert said[0] == said[1]
    assert "`0.weight` is [8, 6] in float32 on rank 0, and [9, 6] in float32 on rank 1" in said[0]


def test_a_folder_that_exists_is_told_to_every_rank(ranks: Ranks, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert all("exists already" in each for each in ranks(2, lambda _: refused(net())))


def test_a_rank_that_takes_fewer_steps_is_waited_for_no_longer_than_was_asked(
    ranks: Ranks,
) -> None:
    def work(rank: int) -> str:
        said = refused(net(), 5 - 2 * rank)
        dist.barrier()  # so that it is there, and does not answer
        return said

    said = ranks(2, work)
    assert said[0].startswith("rank 0 waited at a step, and no answer came from the other rank")
    assert "within 5 s: a rank hangs, has ended, or takes fewer steps; `run` says how" in said[0]


def test_a_rank_without_a_watch_is_thought_of(ranks: Ranks) -> None:
    def work(rank: int) -> str:
        said = refused(net()) if rank == 0 else ""
        dist.barrier()
        return said

    assert "or it has no watch: let every rank begin one." in ranks(2, work)[0]


def test_a_join_that_began_before_the_watch_is_refused_at_once(ranks: Ranks) -> None:
    def work(rank: int) -> str:
        model = DistributedDataParallel(net())
        with model.join():
            said = refused(model, 5 - 2 * rank)
        return said + "; " + refused(model, 2)

    for said in ranks(2, work):
        assert said.startswith("`join()` was called before the watch began")
        assert said.endswith("`with NanWatch(model, optimizer) as watch, model.join():`.; ")


def test_a_group_that_comes_inside_the_block_is_refused_and_one_that_comes_before_is_not(
    ranks: Ranks,
) -> None:
    def work(rank: int) -> list[str]:
        store = dist.FileStore("again", 2)
        dist.destroy_process_group()
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        early = NanWatch(model, optimizer, out=f"early{rank}", timeout=WAIT)
        said = ""
        try:
            with early:
                dist.init_process_group("gloo", None, None, 2, rank, store)
                steps(model, optimizer, 1)
        except RequestError as error:
            said = str(error)
        late = NanWatch(model, optimizer, out="late", timeout=WAIT)
        with late:
            steps(model, optimizer, 2)
        return [said, str(late._ranks.count)]

    for said, count in ranks(2, work):
        assert said.startswith("torch.distributed was initialised inside the watch's block")
        assert count == "2"


def test_torchs_own_error_of_a_lost_rank_gets_a_sentence(ranks: Ranks, tmp_path: Path) -> None:
    def work(rank: int) -> str:
        if rank == 1:
            (tmp_path / "told1.json").write_text('""')
        model = DistributedDataParallel(net())
        if rank == 1:
            next(model.parameters()).register_hook(lambda _: os._exit(3))  # in the first backward
        return refused(model)

    said = ranks(2, work)[0]
    assert said.startswith("whynan: rank 0 lost the other rank: a rank has ended, hangs, or takes")
    assert said.endswith("`run` says how far each of them came.")
