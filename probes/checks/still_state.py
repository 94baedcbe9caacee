"""STA002: every step of a recurrence starts from the same state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from torch import Tensor, nn

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict, resting_on
from probes.layout import State
from probes.states.life import Life
from probes.states.recurrence import Call, Recurrent, equal


@dataclass(frozen=True)
class _Still:
    """Parts of a state that stand still: calls that start from the state of the call before."""

    parts: tuple[int, ...]
    repeats: int
    calls: int
    source: str | None


@dataclass(frozen=True, slots=True)
class StillState:
    """What a recurrent module gives is never the state that its next step starts from.

    The calls of cells, and of layers that are given one step at a time, are compared in one
    forward pass: each starts from the same state as the call before, and none from what the call
    before gave. Of an LSTM, h or c alone may stand still. A layer that is given every step as a
    sequence of its own is found by its rows, and one whose calls read one sequence piece by piece,
    or turns that the layout says it carries its state over, by the state that it is given. Where
    the layout declares the state to be carried over time or turns it is a fault, else a warning.
    Calls that read the same as well are steps only where the model, in training, gives as many
    outputs of each sample and all of them are one: what is drawn after each call makes them differ.
    A module that is called once, or whose calls are sequences of their own, is not recurrent over
    them.

    Sick: `for x in inputs: h = cell(x, start)`.
    Healthy: `for x in inputs: h = cell(x, h)`.
    """

    fewest: int = 2  # calls that start where the one before started

    code: ClassVar[str] = "STA002"
    rule: ClassVar[str] = "state-stands-still"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A recurrent module that is called."""
        return None if experiment.recurrent else "no recurrent module is called"

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a module."""
        found: set[str] = set()
        for each in (*experiment.recurrent, *Life(experiment).predicting(experiment.batch)):
            for finding in self._of(experiment, each) if each.site not in found else ():
                found.add(each.site)
                yield finding

    def _of(self, experiment: Experiment, each: Recurrent) -> Iterator[Finding]:
        state = declared(experiment, each.site)
        if state is not None and not state.carried:
            yield from self._carried(each, state)
            return
        still = self._still(each)
        if still is not None:
            yield self._standing(each, still, state)
        elif (same := self._same(each)) is not None:
            yield self._all_the_same(each, same, state)
        elif (calls := _dropped(each, state)) is not None:
            yield self._new_is_dropped(each, calls, state)
        elif (rows := _as_rows(experiment, each)) is not None:
            yield self._split(each, rows, state)

    def _still(self, each: Recurrent) -> _Still | None:
        if not each.is_step or each.parts == 0:
            return None
        for calls in each.groups():
            pairs = [(a, b) for a, b in pairwise(calls) if a.x.shape == b.x.shape]
            if all(equal(a.x, b.x) for a, b in pairs):
                continue  # the same call, several times
            counts = [_repeats(pairs, i, each.parts) for i in range(each.parts)]
            parts = [i for i, n in enumerate(counts) if n >= max(self.fewest, len(pairs) / 2)]
            if parts:
                source = next((call.source for call in calls[1:] if call.source), calls[0].source)
                return _Still(tuple(parts), counts[parts[0]], len(calls), source)
        return None

    def _same(self, each: Recurrent) -> Sequence[Call] | None:
        """Calls of one state and one input, by which the model gives one step several times."""
        if not each.is_step or each.parts == 0:
            return None
        for calls in each.groups():
            if len(calls) > self.fewest and all(_is_same(a, b) for a, b in pairwise(calls)):
                outputs = each.outputs.get(calls[0].forward, ())
                if any(_is_one_step(output, len(calls)) for output in outputs):
                    return calls
        return None

    def _standing(self, each: Recurrent, still: _Still, state: State | None) -> Finding:
        whole = len(still.parts) == each.parts
        what = "state" if whole else each.part(still.parts[0])
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL if state is not None else Verdict.WARN,
            message=f"the {what} of `{each.site}` never advances: of its {still.calls} calls in a "
            f"forward pass {still.repeats} start from the {what} that the call before started "
            "from, and none from what the call before gave.",
            fix=f"Give `{each.site}` the {what} that its last call returned.",
            site=each.site,
            phase="forward",
            source=still.source,
            where={"time": 1},
            evidence=(Evidence("calls that start as the call before", still.repeats, 0),),
        )
        return _guessed(finding, each.site, state)

    def _all_the_same(self, each: Recurrent, calls: Sequence[Call], state: State | None) -> Finding:
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL if state is not None else Verdict.WARN,
            message=f"the state of `{each.site}` never advances: its {len(calls)} calls in a "
            "forward pass all start from the very same state and read the same input, so that "
            f"the model's {len(calls)} steps are one and the same.",
            fix=f"Give `{each.site}` the state that its last call returned.",
            site=each.site,
            phase="forward",
            source=next((call.source for call in calls[1:] if call.source), calls[0].source),
            where={"time": 1},
            evidence=(Evidence("calls that start as the call before", len(calls) - 1, 0),),
        )
        return _guessed(finding, each.site, state)

    def _split(self, each: Recurrent, steps: int, state: State | None) -> Finding:
        call = each.calls[0]
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL if state is not None else Verdict.WARN,
            message=f"`{each.site}` is given every step as a sequence of its own: "
            f"{tuple(call.x.shape)} holds {steps} steps of each sequence as rows, all of which "
            "start from the same state, which never advances.",
            fix=f"Give `{each.site}` the steps along its time axis.",
            site=each.site,
            phase="forward",
            source=call.source,
            where={"time": 1},
            evidence=(Evidence("steps in a sequence that the module is given", 1, steps),),
        )
        return _guessed(finding, each.site, state)

    def _new_is_dropped(
        self, each: Recurrent, calls: Sequence[Call], state: State | None
    ) -> Finding:
        pieces = "of one sequence in turn" if state is None else f"one {state.over} after the other"
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL if state is not None else Verdict.WARN,
            message=f"the state of `{each.site}` is dropped: its {len(calls)} calls in a forward "
            f"pass read pieces {pieces}, and each starts from the state that the first started "
            "from.",
            fix=f"Give `{each.site}` the state that its last call returned.",
            site=each.site,
            phase="forward",
            source=calls[1].source or calls[0].source,
            evidence=(Evidence("calls that start as the first", len(calls) - 1, 0),),
        )
        return _guessed(finding, each.site, state)

    def _carried(self, each: Recurrent, state: State) -> Iterator[Finding]:
        """A state that is declared not to be carried, and is."""
        for calls in each.groups():
            for t, (one, two) in enumerate(pairwise(calls), 1):
                given = two.before[: each.parts]
                if given and all(map(_is_from, given, one.after(each.parts))):
                    yield Finding(
                        code=self.code,
                        rule=self.rule,
                        verdict=Verdict.FAIL,
                        message=f"`{each.site}` is declared not to carry its state over "
                        f"{state.over}, and call {t} starts from what call {t - 1} gave.",
                        fix="Start it afresh; or declare "
                        f"`State({each.site!r}, over={state.over!r})`.",
                        site=each.site,
                        phase="forward",
                        source=two.source,
                        where={"time": t},
                        evidence=(Evidence("calls with a carried state", 1, 0),),
                    )
                    return


def _is_same(one: Call, two: Call) -> bool:
    """Whether both start from one tensor, or from zeros of the module's own, and read the same."""
    return (
        len(one.given) == len(two.given)
        and equal(one.x, two.x)
        and all(
            a.live.data_ptr() == b.live.data_ptr() and equal(a.value, b.value)
            for a, b in zip(one.before, two.before, strict=True)
        )
    )


def _is_one_step(output: Tensor, steps: int) -> bool:
    """Whether it holds as many steps of each sample, all alike, and the samples differ."""
    if output.ndim < 2 or not output.is_floating_point() or len(output) < 2:
        return False
    for axis in range(output.ndim):
        if output.shape[axis] == steps:
            first = output.narrow(axis, 0, 1)
            rest = first.movedim(axis, 0)[0]
            if bool((output == first).all()) and bool((rest != rest[:1]).any()):
                return True
    return False


def _dropped(each: Recurrent, state: State | None) -> Sequence[Call] | None:
    """The calls that all start from one state, though they read pieces of one sequence."""
    if not isinstance(each.module, nn.RNNBase) or each.is_step:
        return None
    for calls in each.groups():
        same = all(
            len(call.before) == len(calls[0].before)
            and all(
                equal(a.value, b.value) for a, b in zip(call.before, calls[0].before, strict=True)
            )
            for call in calls
        )
        if len(calls) < 2 or not same or equal(calls[0].x, calls[1].x):
            continue
        if state is not None and state.over == "turn":
            return calls
        if len(calls[0].before) and _are_pieces(each, calls):
            return calls
    return None


def _are_pieces(each: Recurrent, calls: Sequence[Call]) -> bool:
    """Whether they read one tensor, (sample, time, feature), from one end to the other."""
    first = calls[0].given[0].live
    axis, whole = 1 if getattr(each.module, "batch_first", False) else 0, first._base
    if whole is None or whole.ndim != 3 or first.ndim != 3:
        return False
    at = first.storage_offset()
    for call in calls:
        piece = call.given[0].live
        if piece._base is not whole or piece.storage_offset() != at:
            return False
        at += piece.shape[axis] * whole.stride(axis)
    return sum(call.x.shape[axis] for call in calls) == whole.shape[axis]


def declared(experiment: Experiment, site: str) -> State | None:
    """What the layout says of the module's state within a batch."""
    states = [s for s in experiment.declared.states if s.site == site and s.over != "batch"]
    return states[0] if states else None


def _guessed(finding: Finding, site: str, state: State | None) -> Finding:
    line = f"states=({State(site, carried=False)!r},)"
    return resting_on(finding, [] if state is not None else [line])


def _is_from(given: object, gave: object) -> bool:
    return equal(given.value, gave.value)  # type: ignore[attr-defined]


def _repeats(pairs: Sequence[tuple[Call, Call]], part: int, parts: int) -> int:
    """How many start from the state of the call before; 0 if one starts from what that gave."""
    found = 0
    for one, two in pairs:
        if not one.before and not two.before:
            found += 1
        elif len(one.before) > part and len(two.before) > part:
            gave = one.after(parts)[part].value
            if equal(two.before[part].value, gave):
                return 0
            found += equal(two.before[part].value, one.before[part].value)
    return found


def _as_rows(experiment: Experiment, each: Recurrent) -> int | None:
    """How many steps of a sequence a layer is given as rows; None where it is not so."""
    if not isinstance(each.module, nn.RNNBase) or not each.is_step or experiment.size < 2:
        return None
    for calls in each.groups():
        if len(calls) > 1:
            return None
    call = each.calls[0]
    count = call.x.shape[0 if each.module.batch_first else 1]
    for steps in sorted(_lengths(experiment), reverse=True):
        if count % (steps * experiment.size) == 0 and all(
            _is_repeated(part.value, steps) for part in call.before
        ):
            return steps
    return None


def _lengths(experiment: Experiment) -> set[int]:
    """Of the axes of the batch that may be time."""
    ordered = ("time", "token", "turn", "unit")
    found = set()
    for key, tensor in experiment.tensors.items():
        names = experiment.layout.axes.get(key, ())
        known = len(names) == tensor.ndim
        found |= {
            n
            for i, n in enumerate(tensor.shape)
            if i and n > 2 and (names[i] in ordered if known else i < max(2, tensor.ndim - 1))
        }
    return found


def _is_repeated(state: Tensor, steps: int) -> bool:
    """Whether as many rows in turn are one and the same, as by `repeat_interleave`."""
    rows = state.reshape(state.shape[0], -1, steps, state.shape[-1])
    return bool((rows == rows[:, :, :1]).all())
