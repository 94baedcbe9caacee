"""Parameters that drift apart between ranks: noted in the record as soon as they are seen to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor, nn

from nan_watch.flags import Doubles
from nan_watch.replicas import Replicas
from probes.record import Recorder

LISTED = 100  # tensors that are named in the record

Gather = Callable[[Any], list[Any]]


class Drift:
    """Holds the ranks' parameters against each other, as far as each step tells of them.

    gather: gives what every rank hands over, in the order of the ranks; it is called where all of
    them saw the same difference, so that none waits alone.
    """

    def __init__(self, model: nn.Module, named: Mapping[str, Tensor], gather: Gather) -> None:
        self.replicas = Replicas(model, named)
        self._gather = gather
        self._alarms = 0
        self.joined = False  # whether ranks have taken steps that others, in `join()`, did not
        self._facts: dict[str, dict[str, Any]] = {}

    def begin(self, recorder: Recorder) -> None:
        """What is seen goes to this record."""
        self._recorder = recorder
        self._note()

    def look(self, step: int, low: Doubles, high: Doubles) -> None:
        """The step's least and largest numbers of all ranks are compared.

        What is apart is measured again after 1, 2, 4, ... steps in which something was.
        """
        met = sum(each.met for each in self.replicas.apart.values())
        found = self.replicas.take(step, low, high)
        if found:
            self._alarms += 1
            fresh = len(self._facts) < LISTED and not self._facts.keys() >= set(found)
            if fresh or self._alarms & (self._alarms - 1) == 0:
                self._measure(found)
                self._note()
        elif sum(each.met for each in self.replicas.apart.values()) != met:
            self._note()

    def _measure(self, found: list[str]) -> None:
        names = [name for name in self.replicas.names if name in found][:LISTED]
        samples = self._gather((self.replicas.sums(names), self.replicas.sample(names[0])))
        sums = [each[0] for each in samples]  # (rank, name)
        held = self.replicas.held(names)
        for place, name in enumerate(names):
            own = [row[place] for row in sums]
            most = Counter(own).most_common(1)[0][0]
            odd = [rank for rank, each in enumerate(own) if each != most]
            keeper = "join" if self.joined and held[name] == "ddp" else held[name]
            fact = self._facts.setdefault(name, {"held": keeper})
            fact |= {"ranks": odd, "distance": None}
        self._facts[names[0]]["distance"] = _distance([each[1] for each in samples])

    def _note(self) -> None:
        apart = [
            {"site": name, **asdict(each), **self._facts[name]}
            for name, each in self.replicas.apart.items()
            if name in self._facts
        ]
        self._recorder.note(
            apart=apart,
            apart_count=len(self.replicas.apart),
            gradients_agree=self.replicas.gradients_agree,
        )


def _distance(samples: list[Doubles]) -> float | None:
    """The largest distance of a rank's numbers from the first's, over the norm of those."""
    norm = float(np.linalg.norm(samples[0]))
    far = max(float(np.linalg.norm(each - samples[0])) for each in samples[1:])
    return far / norm if norm > 0 and np.isfinite(far) else None
