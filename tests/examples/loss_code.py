"""A script for `torchrun`: processes that train together, the loss of one of them is sick.

torchrun --nproc-per-node 2 loss_code.py ddp|fsdp STATE ...

The states: sick; shared (the ranks speak to each other between the loss and its backward pass).
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from nan_watch import NanWatch, PoisonedStep


def spread(kind: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    if kind == "fsdp":
        from torch.distributed.fsdp import fully_shard

        return fully_shard(model)
    return DistributedDataParallel(model)


def length(out: Tensor) -> Tensor:
    return out.square().sum(-1).sqrt()  # planted


def main(kind: str, state: str) -> dict[str, Any]:
    rank, model = dist.get_rank(), spread(kind)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    chance = torch.Generator().manual_seed(rank)
    watch = NanWatch(model, optimizer, out=f"{kind}-{state}", timeout=30)
    found: dict[str, Any] = {}
    try:
        with watch:
            for step in range(4):
                x, gate = torch.randn(5, 6, generator=chance), torch.ones(5, 1)
                gate[3] = float(step != 2 or rank == 0)
                loss = length(model(x) * gate).mean()
                if state == "shared":
                    mean = loss.detach().clone()
                    dist.all_reduce(mean)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
    except PoisonedStep as refusal:
        found["raised"] = str(refusal)
    [finding] = watch.findings
    found["finding"] = [finding.code, finding.node, finding.source, finding.step]
    found["samples"] = finding.samples
    return found


if __name__ == "__main__":
    kind, *states = sys.argv[1:]
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    told = {state: main(kind, state) for state in states}
    Path(f"told{dist.get_rank()}.json").write_text(json.dumps(told))
    dist.destroy_process_group()
