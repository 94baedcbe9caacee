"""What units read at the cut that agrees best with what they are said to read."""

from __future__ import annotations

from torch import Tensor

from probes.experiment import Experiment
from probes.modules import every_module
from probes.reading.alive import Alive, Shown
from probes.reading.cut import Read, Shape, cuts, read, units_pooled, units_shown, with_front
from probes.reading.spans import Spans


def measured(experiment: Experiment, seen: Alive, each: Spans) -> Read | None:
    """What is read at the cut that agrees best with what is to be read.

    Of units that are counted also where code makes them and no module is shown them, if what is
    read there agrees better: a mean of all that is joined to each reads everything.
    """
    shape = Shape(each.lead, each.shared, each.tokens.shape[-1])
    modules = dict(every_module(experiment.subject.model))
    is_site = each.reads.output.partition("[")[0] in modules
    site = each.reads.output if is_site and not each.guessed else None
    of = each.reads.of if each.reads.of not in experiment.tensors else None
    at_unit = (_at_best(seen, each, shape, unit, of) for unit in units_shown(seen, shape, site))
    best = next((found for found in at_unit if found is not None), None)
    if best is not None and errors(each, best)[1] and (wide := with_front(seen, shape)) is not None:
        best = _at_best(seen, each, wide, best.unit, of) or best
    if not each.counted or best is None or not errors(each, best)[1]:
        return best
    for unit in units_pooled(seen, shape):
        found = _at_best(seen, each, shape, unit, of)
        if found is not None and errors(each, found)[1] < errors(each, best)[1]:
            best = found
    return best


def _at_best(seen: Alive, each: Spans, shape: Shape, unit: Shown, of: str | None) -> Read | None:
    """What is read of the cut of one tensor of units that agrees best."""
    best: Read | None = None
    for cut in cuts(seen, shape, unit, of):
        found = read(shape, unit, cut)
        if best is None or errors(each, found) < errors(each, best):
            best = found
        if not any(errors(each, best)):
            break
    return best


def errors(each: Spans, found: Read) -> tuple[float, float]:
    """How many tokens are read and not named, or the reverse; with ends as they fit best.

    Of units that are counted first how many are read at all: they are read whole, and what mixes
    neighbours before would look like more.
    """
    errors = min(unlike(each.tokens, found), unlike(each.other, found))
    return (int(found.tokens.sum()) if each.counted and errors else 0), errors


def unlike(named: Tensor | None, found: Read) -> float:
    """How many tokens are read and not named, or named and not read; infinite of no names."""
    if named is None:
        return float("inf")
    return int(((found.tokens ^ named) & found.asked[..., None]).sum())
