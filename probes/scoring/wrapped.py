"""Labels that were rolled along their rows: the last place is asked for the first id."""

from __future__ import annotations

from dataclasses import dataclass

from probes.experiment import Experiment
from probes.masking.trailing import trailing
from probes.scoring.wanted import wanted

FEWEST = 3  # first ids: one that all rows begin with may well come after their end


@dataclass(frozen=True, slots=True)
class Wrapped:
    """The output at the last place is asked for the id of the key at the first, in all rows."""

    key: str
    output: str
    last: int


def wrapped(experiment: Experiment) -> list[Wrapped]:
    """Of outputs that are asked for the next id everywhere else. Raises ExperimentError."""
    found = []
    for each in wanted(experiment):
        whole = each.asked.shape == each.ids.shape and trailing(each.ids) is None
        if not whole or each.ahead != 1 or not bool(each.scored[:, -1].all()):
            continue
        first = each.ids[:, 0]
        if len(first.unique()) >= FEWEST and bool((each.asked[:, -1] == first).all()):
            found.append(Wrapped(each.key, each.output, each.ids.shape[1] - 1))
    return found
