"""Which attribute of a model carries what a past did to it: found by emptying it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.states.attributes import Attribute, changed, same
from probes.states.life import Life, Outputs, differs
from probes.subject import Batch

MOST = 12  # attributes that are emptied one by one


def blamed(
    experiment: Experiment,
    past: Callable[[Life], object],
    act: Callable[[Life], Outputs],
    alone: Outputs,
) -> tuple[Attribute, ...]:
    """The fewest attributes that, emptied after the past, let the act give what it gives alone.

    Empty is what an attribute holds on a copy's first day. None where that does not help.
    """
    fresh, life = Life(experiment), Life(experiment)
    past(life)
    moved = changed(fresh.contents, life.contents)

    def cured(emptied: Sequence[Attribute]) -> bool:
        trial = Life(experiment)
        past(trial)
        for each in emptied:
            trial.forget(each, fresh)
        try:
            return differs(alone, act(trial)) is None
        except ExperimentError:
            return False

    for each in moved[:MOST]:
        if cured([each]):
            return (each,)
    if not cured(moved):
        return ()
    needed = list(moved)
    for each in moved[:MOST]:
        rest = [one for one in needed if one != each]
        if cured(rest):
            needed = rest
    return tuple(needed)


def is_settled(experiment: Experiment, attribute: Attribute, batch: Batch) -> bool:
    """Whether evaluation of this batch leaves the attribute alone once the model was trained on.

    As of numbers that the first pass of all finds out, which is training's.
    """
    life = Life(experiment)
    try:
        life.train(experiment.batch)
        before = life.contents.get(attribute)
        life.evaluate(batch)
    except ExperimentError:
        return False
    return same(before, life.contents.get(attribute))
