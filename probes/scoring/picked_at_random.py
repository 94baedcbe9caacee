"""Answers that hang on what is picked at random, in evaluation mode, while classes score them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.compare import scale
from probes.execution import glance
from probes.experiment import Experiment, attempted, copied
from probes.operators.draw_lines import DrawLines, Line
from probes.operators.picks import Picks, picks_by_itself
from probes.raised import place_in
from probes.replay import Snapshot
from probes.scoring.calls import Call, Scoring
from probes.seeding import seed_everything

SEEDS = (31, 32, 33, 34, 35, 36)
MOVES = 0.01  # of the scores: less is no matter
SPREAD = 0.1  # of what the scores of different samples differ by: less is an estimate's noise
TIMES = 2  # as often as in the loss: in a prediction and in the loss


@dataclass(frozen=True, slots=True)
class Picked:
    """What classes score moves with what one line picks.

    key: of the labels. share: how far scores move from one draw to another at most, of their size.
    spread: mostly, of what the scores of different places differ by. source: the line that draws.
    """

    key: str
    share: float
    spread: float
    source: str


def picked_at_random(experiment: Experiment) -> Picked | None:
    """The line whose picks move the scores; None where none does, or they are no classes' scores.

    The labels are a key that tells the loss alone, whatever is drawn: neither what is to be found
    again under a mask, nor what is made up. Nor is it told of a line that takes several of many,
    or that draws more often in a prediction than in the loss, as is done to see how answers spread.
    Raises ExperimentError.
    """
    runs = [_scores(experiment, seed) for seed in SEEDS]
    for number, key in _labelled(experiment, runs):
        found = [run[number].scores.double() for run in runs]
        share, spread = _moved(found)
        if share > MOVES and spread > SPREAD:
            source = _source(experiment, number)
            return None if source is None else Picked(key, share, spread, source)
    return None


def _scores(
    experiment: Experiment, seed: int, under: Sequence[AbstractContextManager[object]] = ()
) -> list[Call]:
    """The calls of torch's losses in evaluation mode, from a random state."""
    subject, model, scoring = experiment.subject, experiment.subject.model, Scoring()

    def call() -> dict[str, Tensor]:
        seed_everything(seed)
        with attempted("`Subject.loss`, in evaluation mode,"):
            return {"loss": subject.loss(model.eval(), copied(experiment.batch))}

    snapshot = Snapshot.take(model, parameters=True)
    glance(call, model, snapshot, under=(scoring, *under), rounding=0.0)
    return scoring.calls


def _labelled(experiment: Experiment, runs: Sequence[Sequence[Call]]) -> Iterator[tuple[int, str]]:
    """Calls that score the same labels of the same key in every run."""
    if len({len(run) for run in runs}) > 1:
        return
    for number, calls in enumerate(zip(*runs, strict=True)):
        first = calls[0]
        same = all(
            each.kind == first.kind
            and each.scores.shape == first.scores.shape
            and torch.equal(each.labels, first.labels)
            for each in calls
        )
        key = _key(experiment, first.labels) if same else None
        if key is not None and first.kind in ("class", "binary"):
            yield number, key


def _key(experiment: Experiment, labels: Tensor) -> str | None:
    flat = labels.flatten()
    for key in experiment.targets:
        own = experiment.tensors[key].detach().flatten()
        if own.shape == flat.shape and torch.equal(own.to(flat), flat):
            return key
    return None


def _moved(scores: Sequence[Tensor]) -> tuple[float, float]:
    """How far scores move from draw to draw: at most, of their size, and mostly, of their spread.

    What all classes of a place share is left out.
    """
    every = torch.stack(list(scores))  # (draw, place..., class)
    if every.ndim > 2:
        every = every - every.mean(-1, keepdim=True)
    size, most = scale(every), float((every - every[0]).abs().max())
    within = float(every.var(0).mean().sqrt())
    places = every.mean(0).flatten(0, -2) if every.ndim > 2 else every.mean(0)
    between = float(places.var(0).mean().sqrt()) if len(places) > 1 else 0.0
    return most / size if size else 0.0, within / between if between else float("inf")


def _source(experiment: Experiment, number: int) -> str | None:
    """The first line that picks and alone moves the scores of that call."""
    lines, picks, whole = DrawLines(), Picks(experiment.size), Picks(experiment.size)
    _scores(experiment, SEEDS[0], (lines,))
    _scores(experiment, SEEDS[0], (picks,))
    experiment.evaluate(experiment.batch, under=(whole,))
    for line in lines.found:
        said = place_in(*line)
        often = picks.lines[said]
        torchs = (
            often and said not in picks.spared | whole.spared and whole.lines[said] <= TIMES * often
        )
        if (torchs or (not often and picks_by_itself(*line))) and _moves(experiment, line, number):
            return said
    return None


def _moves(experiment: Experiment, line: Line, number: int) -> bool:
    """Whether the scores differ where only this line's draws do."""
    runs = [_scores(experiment, SEEDS[0], (DrawLines(line, seed),)) for seed in SEEDS]
    shapes = {run[number].scores.shape if number < len(run) else None for run in runs}
    if len(shapes) > 1 or None in shapes:
        return False
    return _moved([run[number].scores.double() for run in runs])[0] > MOVES
