"""Watching the specimen changes nothing."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from model.subject import hierarchical
from nan_watch import NanWatch
from probes import Subject
from probes.batch import take
from probes.loop import Loop
from probes.seeding import seed_everything

STEPS = 20


def few(subject: Subject) -> list[object]:
    return [take(batch, range(3), subject.layout) for batch in subject.batches][:2]


def nodes(loss: Tensor) -> int:
    """How many nodes the autograd graph of the loss has."""
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return len(seen)


def trained(out: Path | None) -> tuple[list[Tensor], Tensor]:
    """The parameters after the steps, dropout on, and where the random state stands."""
    seed_everything(0)
    subject = hierarchical()
    loop, batches = Loop(subject), few(subject)
    if out is None:
        for step in range(STEPS):
            loop.step(batches[step % 2])
    else:
        with NanWatch(loop.model, loop.optimizer, out=out) as watch:
            for step in range(STEPS):
                loop.step(batches[step % 2], watch)
        assert watch.steps == STEPS
    return list(loop.model.parameters()), torch.get_rng_state()


def test_parameters_and_random_state_are_equal_to_the_bit_after_20_steps(tmp_path: Path) -> None:
    bare, bare_chance = trained(None)
    seen, seen_chance = trained(tmp_path / "run")
    assert all(map(torch.equal, bare, seen))
    assert torch.equal(bare_chance, seen_chance)


def test_the_autograd_graph_has_as_many_nodes(tmp_path: Path) -> None:
    seed_everything(0)
    subject = hierarchical()
    batch = few(subject)[0]
    bare = nodes(subject.loss(subject.model, batch))
    with NanWatch(subject.model, subject.optimizer(subject.model), out=tmp_path / "run"):
        assert nodes(subject.loss(subject.model, batch)) == bare
    assert bare > 100
