"""A loop for real processes: models that torch spreads in every way it has, healthy and sick."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from nan_watch import NanWatch, PoisonedStep

BFLOAT, FLOAT, HALF = torch.bfloat16, torch.float32, torch.float16


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.mid, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        hidden = self.mid(self.inner(x).tanh().square()).relu()
        logits: Tensor = self.head(hidden * length[:, None] / length[:, None])  # planted
        return logits


def sharded(
    model: Any, *, whole: Any = None, mid: Any = None, together: bool = False, **how: Any
) -> Any:
    """whole, mid: policies of the model and of `mid` alone, or of `inner` and `mid` as a group."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if mid is not None:
        parts = [model.inner, model.mid] if together else model.mid
        fully_shard(parts, mp_policy=MixedPrecisionPolicy(**mid), **how)
    return fully_shard(model, mp_policy=MixedPrecisionPolicy(**(whole or {})), **how)


def hybrid(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "parts"))
    return sharded(model, whole={"param_dtype": BFLOAT, "reduce_dtype": FLOAT}, mesh=mesh)  # type: ignore[no-any-return]


def parallel(model: nn.Module, *, shard: bool = False) -> nn.Module:
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    shape = (2, 2) if shard else (1, 2)
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("data", "tensor"))
    plan = {"inner": ColwiseParallel(), "mid": RowwiseParallel()}
    model = parallelize_module(model, mesh["tensor"], plan)
    return sharded(model, mesh=mesh["data"]) if shard else model


def compressed(model: nn.Module) -> nn.Module:
    from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook

    model = DistributedDataParallel(model)
    state = powerSGD_hook.PowerSGDState(None, 1, start_powerSGD_iter=2)
    model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    return model


NARROW = {"param_dtype": BFLOAT, "reduce_dtype": FLOAT}
BACK = NARROW | {"output_dtype": FLOAT}
KINDS: Mapping[str, tuple[int, Callable[[nn.Module], nn.Module]]] = {
    "policy": (2, partial(sharded, whole=NARROW)),
    "policy_back": (2, partial(sharded, whole=BACK)),
    "policies": (2, partial(sharded, mid=BACK, reshard_after_forward=False)),
    "no_cast": (2, partial(sharded, whole=NARROW, mid=NARROW | {"cast_forward_inputs": False})),
    "group": (2, partial(sharded, mid=BACK, together=True)),
    "hybrid": (4, hybrid),
    "parallel": (2, parallel),
    "parallel_sharded": (4, partial(parallel, shard=True)),
    "static": (2, partial(DistributedDataParallel, static_graph=True)),
    "compressed": (2, compressed),
    "parts": (2, DistributedDataParallel),
    "policy_parts": (2, partial(sharded, whole=NARROW)),
}


def without_sums(model: Any, last: bool) -> Any:
    """What stands around a part of a step: gradients are summed in the last one only."""
    if hasattr(model, "no_sync"):
        return nullcontext() if last else model.no_sync()
    model.set_requires_gradient_sync(last)
    return nullcontext()


def trained(kind: str, state: str, rank: int) -> dict[str, Any]:
    """Four steps; in the third, the last rank is sick, or the processes of its batch are."""
    torch.manual_seed(0)
    model = KINDS[kind][1](Net())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    same = kind.startswith("parallel")  # two ranks share a batch
    mine, count = (rank // 2, dist.get_world_size() // 2) if same else (rank, dist.get_world_size())
    chance = torch.Generator().manual_seed(mine)
    parts = 2 if "parts" in kind else 1

    def loop() -> None:
        for step in range(4):
            for part in range(parts):
                x, length = torch.randn(8, 6, generator=chance), torch.full((8,), 5.0)
                if state == "sick" and step == 2 and mine == count - 1 and part == 0:
                    length[3] = 0.0
                with without_sums(model, part == parts - 1) if parts > 1 else nullcontext():
                    logits = model(x, length).float()
                    F.cross_entropy(logits, (x[:, 0] > 0).long()).backward()
            optimizer.step()
            optimizer.zero_grad()

    told: dict[str, Any] = {}
    if state == "bare":
        loop()
    else:
        watch = NanWatch(model, optimizer, out=state, timeout=30)
        try:
            with watch:
                loop()
        except PoisonedStep as refusal:
            told["raised"] = str(refusal)
        told["findings"] = [(f.code, f.op, f.source, f.samples, f.step) for f in watch.findings]
        told["messages"] = [f.message for f in watch.findings]
        told["evidence"] = [e.what for f in watch.findings for e in f.evidence]
    told["parameters"] = [numbers(each) for each in model.parameters()]
    return told


def numbers(parameter: Any) -> list[float]:
    whole = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    out: list[float] = whole.detach().flatten().tolist()
    return out
