"""Accuracies over many interactions: under the gold prefix, and of queries written greedily."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from model.collate import Batch
from model.decode import queries
from model.metrics import METRICS, unreachable
from model.parser import Parser
from model.read import Interaction, Turn
from probes.batch import to_device
from probes.subject import Ratio

AT_ONCE = 20  # interactions in a batch, which changes no result

Scores = Mapping[str, Ratio]
"""Name to hits and count, as numbers."""


def evaluate(model: Parser, interactions: Sequence[Interaction], device: str) -> Scores:
    """Every metric under the gold prefix, and `unreachable`, the gold steps without an output.

    Dropout is off; the model's mode and the random states are as before.
    """
    measured = {**METRICS, "unreachable": unreachable}
    total = dict.fromkeys(measured, (0.0, 0.0))
    with evaluation_mode(model):
        for _, batch in _batches(model, interactions, device):
            answer = Answer(model, batch)
            for name, metric in measured.items():
                hits, count = metric(answer, batch)
                total[name] = (total[name][0] + float(hits), total[name][1] + float(count))
    return {name: Ratio(hits, count) for name, (hits, count) in total.items()}


class Answer(nn.Module):
    """The model's output for one batch, computed once however many metrics ask for it."""

    @torch.no_grad()
    def __init__(self, model: nn.Module, batch: Batch) -> None:
        super().__init__()
        self.model = model
        self.output: Mapping[str, Tensor] = model(batch)

    def forward(self, batch: Batch) -> Mapping[str, Tensor]:
        """The output, (n, t, j, ...)."""
        return self.output


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Within the block nothing is dropped out; afterwards the model's mode is what it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _batches(
    model: Parser, interactions: Sequence[Interaction], device: str
) -> Iterator[tuple[Sequence[int], Batch]]:
    """Each batch with the places of its interactions, which with `bucketing` are of like size."""
    order = list(range(len(interactions)))
    if model.config.bucketing:
        order.sort(key=lambda place: model.collate.size(interactions[place]))
    for start in range(0, len(order), AT_ONCE):
        places = order[start : start + AT_ONCE]
        yield places, to_device(model.collate([interactions[i] for i in places]), device)


Written = list[list[tuple[str, ...]]]
"""The steps of every turn of every interaction."""


def written(
    model: Parser, interactions: Sequence[Interaction], device: str, last: bool = False
) -> Written:
    """What greedy decoding writes, the earlier turns' queries being the gold ones.

    With `last` each interaction's last turn is written alone, and before it stands nothing.
    """
    found: Written = [[] for _ in interactions]
    with evaluation_mode(model):
        for places, batch in _batches(model, interactions, device):
            for place, turns in zip(places, queries(model, batch, last), strict=True):
                found[place] = turns
    return found


def written_alone(model: Parser, interactions: Sequence[Interaction], device: str) -> Written:
    """What greedy decoding writes after the queries that it has written itself."""
    found: Written = [[] for _ in interactions]
    for turn in range(max((len(each.turns) for each in interactions), default=0)):
        going = [i for i, each in enumerate(interactions) if len(each.turns) > turn]
        so_far = [_so_far(interactions[i], found[i]) for i in going]
        for i, turns in zip(going, written(model, so_far, device, last=True), strict=True):
            found[i].append(turns[turn])
    return found


def _so_far(interaction: Interaction, done: Sequence[tuple[str, ...]]) -> Interaction:
    """The interaction up to the next turn, its earlier queries replaced by what was written."""
    turns = [
        replace(turn, steps=steps) for turn, steps in zip(interaction.turns, done, strict=False)
    ]
    following: Turn = interaction.turns[len(done)]
    return replace(interaction, turns=(*turns, following))


def exact(interactions: Sequence[Interaction], found: Written) -> Ratio:
    """Queries that were written as the gold one is, step by step, out of all."""
    pairs = [
        (turn.steps, steps)
        for each, turns in zip(interactions, found, strict=True)
        for turn, steps in zip(each.turns, turns, strict=True)
    ]
    return Ratio(sum(gold == steps for gold, steps in pairs), len(pairs))


def share(ratio: Ratio) -> float:
    """The accuracy; NaN of nothing."""
    return float(ratio.hits) / float(ratio.count) if ratio.count else float("nan")


def said(ratio: Ratio) -> str:
    """An accuracy with its count: `.850 (17 of 20)`."""
    hits = f"{float(ratio.hits):.1f}".removesuffix(".0")
    return f"{share(ratio):.3f} ({hits} of {float(ratio.count):.0f})"
