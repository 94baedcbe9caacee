"""NAN010: a checkpoint holds numbers that are not finite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from nan_watch.autopsy.facts import Examined, TensorFacts
from probes.finding import Evidence, Finding, Verdict

Series = Sequence[Examined]
"""Checkpoints in the order in which they were written."""


@dataclass(frozen=True, slots=True)
class PoisonedCheckpoint:
    """Stored weights or optimizer state hold NaN or infinity; every run from there is poisoned.

    Of a series the first such checkpoint is the finding: what did it happened between the one
    before and this one. Where the optimizer's state is poisoned too, gradients that were not
    finite went through the optimizer; where it is finite, none did.

    `-inf` alone is a mask's value: it counts only in a tensor named `weight`, in an optimizer's
    state, and where the checkpoint before was finite.

    Sick: `torch.save(model.state_dict(), path)` after a step whose gradient held a NaN.
    Healthy: the checkpoint before that step; one whose buffers hold an attention mask of `-inf`.
    """

    code: ClassVar[str] = "NAN010"
    rule: ClassVar[str] = "poisoned-checkpoint"
    family: ClassVar[Literal["cause"]] = "cause"

    shown: int = 8  # tensors that are told one by one

    def lacks(self, series: Series) -> str | None:
        """Nothing: a checkpoint without tensors is refused before it comes here."""
        return None

    def judge(self, series: Series) -> Iterator[Finding]:
        """The first poisoned checkpoint."""
        for place, each in enumerate(series):
            if each.poisoned:
                yield self._finding(series, place)
                return

    def _finding(self, series: Series, place: int) -> Finding:
        found = series[place]
        first = found.poisoned[0]
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"{_headline(series, place)}: {_which(found)}; {_trail(found)}.",
            fix=_fix(series, place),
            site=first.name,
            where={"row": first.rows[0]} if first.rows else {},
            evidence=tuple(self._evidence(series, place)),
        )

    def _evidence(self, series: Series, place: int) -> Iterator[Evidence]:
        found = series[place]
        yield Evidence("poisoned tensors", len(found.poisoned), 0, f"of {len(found.tensors)}")
        for each in found.poisoned[: self.shown]:
            yield Evidence(f"`{each.name}` {_kinds(each)}", each.bad, 0, f"of {each.count} numbers")
        for later in series[place + 1 :]:
            yield Evidence(f"poisoned tensors in `{later.name}`, later", len(later.poisoned), 0)


def _headline(series: Series, place: int) -> str:
    name = f"`{series[place].name}`"
    if len(series) == 1:
        return f"{name} is poisoned"
    before = f" (`{series[place - 1].name}` before it is finite)" if place else ""
    return f"{name} is the first of {len(series)} checkpoints that is poisoned{before}"


def _which(found: Examined) -> str:
    first = found.poisoned[0]
    more = len(found.poisoned) - 1
    others = f", and {more} more of {len(found.tensors)} tensors" if more else ""
    return f"`{first.name}` holds {_kinds(first)}{others}"


def _kinds(each: TensorFacts) -> str:
    """Such as `16 NaN and 2 inf in rows 3, 7`."""
    counts = {"NaN": each.nan, "inf": each.inf, "-inf": each.minus_inf}
    told = " and ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    if not each.rows:
        return told
    if each.bad_rows == each.shape[0]:
        return f"{told} in all of its {each.bad_rows} rows"
    more = f", ... ({each.bad_rows} rows)" if each.bad_rows > len(each.rows) else ""
    word = "row" if each.bad_rows == 1 else "rows"
    return f"{told} in {word} {', '.join(map(str, each.rows))}{more}"


def _trail(found: Examined) -> str:
    """What the tensors that are poisoned, beside those that are not, say of how it came."""
    state = [each for each in found.tensors if each.of_optimizer and each.count > 1]
    model = [each for each in found.poisoned if not each.of_optimizer]
    if model and all("running_" in each.name for each in model):
        return "only running statistics are poisoned: a forward pass in training mode did it"
    if not state:
        return "no optimizer state lies beside it that could say how it came"
    if not any(each.poisoned for each in state):
        return (
            "the optimizer's state is finite, so no gradient that was not finite went through "
            "it: the weights were loaded so, or written by other code or by the update itself"
        )
    if not model:
        return "the model's own tensors are still finite, and the next update would poison them"
    return (
        "the optimizer's state is poisoned too, so gradients that were not finite went through it"
    )


def _fix(series: Series, place: int) -> str:
    guarded = "under `NanWatch`, which keeps a poisoned step out of the weights"
    if place:
        return f"Go on from `{series[place - 1].name}`, {guarded}."
    return f"Go on from a checkpoint that was written earlier and is finite, {guarded}."
