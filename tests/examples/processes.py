"""A script for `torchrun`: a plain loop in DistributedDataParallel, or with fully_shard.

torchrun --nproc-per-node 2 processes.py ddp|fsdp STATE ...

The states are gone through in turn: bare (not watched), healthy, sick, handed (sick, and each step
handed over), narrow (sick, and in bfloat16), die, apart (the ranks hold different models), unknown
(watched before there is a group).
"""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from nan_watch import NanWatch, PoisonedStep
from probes.errors import RequestError

SICK = ("sick", "handed", "narrow")


class Net(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(6, width), nn.Linear(width, 2)

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        hidden = self.inner(x).tanh().square()
        return self.head(hidden * length[:, None] / length[:, None])  # planted


def main(kind: str, state: str) -> dict[str, Any]:
    bare, rank = state == "bare", dist.get_rank()
    torch.manual_seed(0)
    model: nn.Module = Net(16 + (rank if state == "apart" else 0))
    if kind == "fsdp":
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        narrow = torch.bfloat16 if state == "narrow" else None
        fully_shard(model, mp_policy=MixedPrecisionPolicy(param_dtype=narrow))
    elif state != "apart":
        model = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    chance = torch.Generator().manual_seed(rank)

    def loop() -> None:
        for step in range(5):
            x, length = torch.randn(8, 6, generator=chance), torch.full((8,), 5.0)
            if state in SICK and step == 2 and rank == 1:
                length[3] = 0.0
            if state == "die" and step == 2 and rank == 1:
                os._exit(3)
            again = partial(one, x, length)
            given = {"x": x, "length": length}
            again() if state != "handed" else watch.step(again, batch=given)

    def one(x: Tensor, length: Tensor) -> None:
        loss = F.cross_entropy(model(x, length), (x[:, 0] > 0).long())
        loss.backward()
        if not bare and kind == "fsdp" and state == "healthy":
            norms[rank] = [p.grad.full_tensor().norm().item() for p in model.parameters()]  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad()

    norms: dict[int, list[float]] = {}
    found: dict[str, Any] = {}
    if bare:
        loop()
    else:
        watch = NanWatch(model, optimizer, out=state, timeout=15)
        try:
            with watch:
                loop()
        except PoisonedStep as refusal:
            found["raised"] = str(refusal)
        except RequestError as error:
            return {"refused": str(error)}
        found["findings"] = [(f.code, f.source, f.samples, f.step) for f in watch.findings]
        found["messages"] = [f.message for f in watch.findings]
        norm = watch.run.readings("param_grad", "norm")
        seen = norm[norm.step == 4]
        found["norms"], found["folder"] = seen.value.tolist(), str(watch.run.folder)
        found["true"] = norms.get(rank)
    total = [p.full_tensor() if kind == "fsdp" else p for p in model.parameters()]  # type: ignore[attr-defined]
    found["parameters"] = [p.detach().flatten().tolist() for p in total]
    return found


def unknown() -> dict[str, Any]:
    """A watch before there is a process group."""
    net = Net()
    try:
        NanWatch(net, torch.optim.SGD(net.parameters(), 0.1), out="none").__enter__()
    except RequestError as error:
        return {"refused": str(error)}
    return {}


if __name__ == "__main__":
    kind, *states = sys.argv[1:]
    told = {"unknown": unknown()} if "unknown" in states else {}
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    told |= {state: main(kind, state) for state in states if state != "unknown"}
    Path(f"told{dist.get_rank()}.json").write_text(json.dumps(told))
    dist.destroy_process_group()
