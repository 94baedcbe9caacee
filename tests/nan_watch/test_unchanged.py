"""Watching changes nothing."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nan_watch import NanWatch

OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01, foreach=False),
    "adamw-foreach": lambda ps: torch.optim.AdamW(ps, lr=0.01, foreach=True),
    "adamw-fused": lambda ps: torch.optim.AdamW(ps, lr=0.01, fused=True),
}


def flat(tree: object) -> list[Tensor]:
    if isinstance(tree, dict):
        return [each for value in tree.values() for each in flat(value)]
    if isinstance(tree, list):
        return [each for value in tree for each in flat(value)]
    return [tree.detach().clone()] if isinstance(tree, Tensor) else []


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(map(torch.equal, left, right))


@pytest.mark.parametrize("clip", [None, 0.05, 50.0])
@pytest.mark.parametrize("tier", ["sites", "sentinel"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_parameters_state_and_random_state_are_equal_to_the_bit(
    make: Any, tier: Any, clip: float | None, train: Any, tagger: nn.Module
) -> None:
    ends = []
    for watched in (False, True):
        model = copy.deepcopy(tagger)
        optimizer = make(model.parameters())
        torch.manual_seed(7)
        if watched:
            with NanWatch(model, optimizer, tier, parameter_hooks=True) as watch:
                parameters = train(model, optimizer, 20, watch=watch, clip=clip)
        else:
            parameters = train(model, optimizer, 20, clip=clip)
        ends.append((parameters, flat(optimizer.state_dict()), torch.get_rng_state()))
    (bare, bare_state, bare_chance), (seen, seen_state, seen_chance) = ends
    assert same(bare, seen)
    assert same(bare_state, seen_state)
    assert torch.equal(bare_chance, seen_chance)


def test_clipping_with_mixed_dtypes_and_a_scope_is_torchs_own_to_the_bit() -> None:
    ends = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = nn.ModuleDict({"a": nn.Linear(7, 5), "b": nn.Linear(5, 3).double()})
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model["b"](model["a"](torch.ones(2, 7)).double()).square().sum().backward()
        if watched:
            with NanWatch(model, optimizer) as watch:
                all_of_it = watch.clip_grad_norm_(0.5)
                scope = watch.clip_grad_norm_(0.1, model["a"].parameters())
        else:
            all_of_it = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scope = nn.utils.clip_grad_norm_(model["a"].parameters(), 0.1)
        ends.append([all_of_it, scope, *[p.grad for p in model.parameters()]])
    assert same(*ends)


def test_a_steps_hooks_run_on_the_meta_device(tmp_path: Path) -> None:
    """There every read of a number by the host raises."""
    from nan_watch.flags import Flags
    from nan_watch.grad_norms import GradNorms, HookedNorms
    from nan_watch.updates import Updates
    from probes.bus import Bus

    with torch.device("meta"):
        model = nn.ModuleDict(
            {
                "embedding": nn.Embedding(5, 4),
                "attention": nn.MultiheadAttention(4, 2, batch_first=True),
                "lstm": nn.LSTM(4, 4, batch_first=True),
                "norm": nn.BatchNorm1d(4),
                "act": nn.ReLU(inplace=True),
                "head": nn.Linear(4, 2),
            }
        )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    flags, hooked = Flags(), HookedNorms()
    norms, updates = GradNorms(model, optimizer), Updates()
    with Bus(model, [flags, hooked]):
        x = model["embedding"](torch.zeros(2, 3, dtype=torch.long, device="meta"))
        x = model["lstm"](model["attention"](x, x, x)[0])[0][:, 0]
        model["head"](model["act"](model["norm"](x))).sum().backward()
    norms.clip(1.0, None)
    updates.before(norms.named, norms.held)
    updates.after()
    assert sum(each.numel() for each in flags.waiting) >= 2 * 12
    assert len(norms.waiting()) == len(norms.names) + 2
    assert len(hooked.waiting) == len(norms.names)
    with pytest.raises((NotImplementedError, RuntimeError)):
        flags.waiting[0][0].item()


def test_importing_the_watch_loads_nothing_heavy() -> None:
    heavy = [
        "transformers",
        "captum",
        "matplotlib",
        "pandas",
        "rich",
        "typer",
        "jinja2",
        "reports.render",
    ]
    code = f"import sys, nan_watch; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
