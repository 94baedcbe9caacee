"""STA001: the result of a batch depends on the batch before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar, Literal

from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.layout import State
from probes.states.attributes import Attribute, Leaves, changed, same, written_at
from probes.states.blame import blamed, is_settled
from probes.states.by_sample import has_entries, is_content
from probes.states.life import Life, Outputs, differs, later_goes_on, noise_of, other_batches
from probes.states.recurrence import equal
from probes.states.starts import STARTS, starts_elsewhere
from probes.states.strayed import Rewritten, has_samples, rewritten, strayed
from probes.states.stream import is_stream
from probes.subject import Batch

Act = Callable[[Life, Batch], Outputs]
ERROR = "error: "
START = "start: "
DRIFT = 1e-4  # of an output: less is the rounding of weights that are normalised again
ACTS: dict[str, Act] = {"evaluation": Life.evaluate, "training": Life.train}


@dataclass(frozen=True)
class _Seen:
    """A batch alone, and after another: the largest effect, and what carried it.

    before: the batch that came first. culprits: attributes; emptied, the effect is gone. written:
    parameters; put back, it is gone.
    """

    act: Act
    how: str
    before: Batch
    name: str
    share: float
    limit: float
    culprits: tuple[Attribute, ...]
    written: Rewritten | None = None


@dataclass(frozen=True, slots=True)
class LeftOver:
    """A batch gives other numbers when another batch came before it, at the same weights.

    Copies of the model are given the batch alone, and another batch first; in evaluation mode,
    and in training without an optimizer step. Where no output tells, what recurrent layers start
    from may: untrained ones forget it over a long sequence. What was carried is found by emptying
    one attribute after the other: a hidden state that is not reset, an encoding that is kept and
    read again; then parameters that the pass writes itself are put back, and names that outlive
    a call: default values, closures, globals. Samples that read what other samples left are a
    warning; where they read the first batch ever since, a fault; where batches continue each
    other row by row, or `State(..., over="batch")` declares it, it is meant. What has no entry
    for each sample may be running statistics, a queue or a counter: nothing is said of training
    then; of evaluation it is a warning, or a note where training writes it once for all.

    Sick: `out, self.hidden = self.lstm(x, self.hidden)`, for sequences that do not continue.
    Healthy: `out, _ = self.lstm(x)`; or `model.reset()` before every sequence.
    """

    code: ClassVar[str] = "STA001"
    rule: ClassVar[str] = "state-left-over"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Another batch, or samples to make one of."""
        if next(other_batches(experiment), None) is None:
            return "there is one batch only, which cannot be cut into samples"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        seen, reason = None, None
        for how, act in ACTS.items():
            try:
                seen = self._seen(experiment, how, act)
            except ExperimentError as error:
                if how == "evaluation" or experiment.subject.train_step is None:
                    reason = error  # else the loss may be out of use
                continue
            if seen is not None:
                yield from self._findings(experiment, seen)
                return
        if (faded := self._faded(experiment)) is not None:
            yield from self._findings(experiment, faded)
            return
        if reason is not None:
            raise reason
        yield from self._missing(experiment)

    def _faded(self, experiment: Experiment) -> _Seen | None:
        """A state that is carried into a recurrent layer, which forgets it before the end."""
        found = starts_elsewhere(experiment)
        if found is None:
            return None
        how, before, (site, share, limit) = found
        act, batch = STARTS[how], experiment.batch
        told = _given(act, before), _given(act, batch), act(Life(experiment), batch)
        seen = _Seen(act, how, before, f"{START}{site}", share, limit, blamed(experiment, *told))
        return seen if _kept(experiment, seen) else None

    def _seen(self, experiment: Experiment, how: str, act: Act) -> _Seen | None:
        batch = experiment.batch
        alone = act(Life(experiment), batch)
        again = act(Life(experiment), batch)
        if noise_of(alone, again):
            return self._outside_of(experiment, how, act, differs(alone, again))
        raised: ExperimentError | None = None
        for other in other_batches(experiment):
            life = Life(experiment)
            try:
                act(life, other)
            except ExperimentError as error:
                raised = error
                continue
            effect = self._effect(experiment, life, act, alone)
            if effect is None:
                return None
            told = experiment, _given(act, other), _given(act, batch), alone
            culprits = blamed(*told)
            return _Seen(act, how, other, *effect, culprits, None if culprits else rewritten(*told))
        assert raised is not None
        raise raised

    def _outside_of(
        self, experiment: Experiment, how: str, act: Act, moved: tuple[str, float, float] | None
    ) -> _Seen | None:
        """Where no two copies agree, what both remember may stand outside of them."""
        one, *rest = islice(other_batches(experiment), 2)
        pasts = [(one, one), (one, one), (rest[0] if rest else experiment.batch,) * 2]
        given = []
        for past in pasts:
            life = Life(experiment)
            for before in past:
                act(life, before)
            given.append(act(life, experiment.batch))
        effect = differs(given[0], given[2], noise_of(given[0], given[1]))
        if effect is None and moved is not None:
            told = _given(act, one), _given(act, experiment.batch)
            effect = moved if strayed(experiment, *told) is not None else None
        return None if effect is None else _Seen(act, how, one, *effect, ())

    def _effect(
        self, experiment: Experiment, life: Life, act: Act, alone: Outputs
    ) -> tuple[str, float, float] | None:
        """What differs now; in evaluation, an error that was none before does."""
        try:
            after = act(life, experiment.batch)
            predicted = {name: value for name, value in alone.items() if name in experiment.outputs}
            return differs(predicted, after) or differs(alone, after)
        except ExperimentError as error:
            if act is not Life.evaluate:
                raise
            return f"{ERROR}{error}", float("inf"), 0.0

    def _findings(self, experiment: Experiment, seen: _Seen) -> Iterator[Finding]:
        declared = [each for each in experiment.declared.states if each.over == "batch"]
        if any(each.carried for each in declared):
            return
        if kept := _kept(experiment, seen):
            yield self._carried(experiment, seen, kept, declared)
        elif memo := _memo(experiment, seen):
            yield self._carried(experiment, seen, memo, declared)
        elif seen.culprits:
            yield from self._other(experiment, seen)
        elif seen.written is not None:
            yield from self._written(seen, seen.written)
        else:
            yield from self._outside(experiment, seen)

    def _carried(
        self, experiment: Experiment, seen: _Seen, kept: list[Attribute], declared: list[State]
    ) -> Finding:
        first, renewed = kept[0], _is_renewed(experiment, seen, kept[0])
        stream = renewed and not declared and is_stream(experiment)
        verdict = Verdict.WARN if renewed and not declared else Verdict.FAIL
        line = f"states=({State(first.site, over='batch')!r},)"
        told = (
            "still holds what the samples of the batch before it left"
            if renewed
            else "was made from an earlier batch and is read again instead of being made anew"
        )
        finding = _said(self, experiment, seen, Verdict.NOTE if stream else verdict, told, first)
        fix = (
            f"Reset `{first.site}` before every sequence that does not continue the last one."
            if renewed
            else f"Make `{first.site}` anew for every batch, or key it by what it is made from."
        )
        if stream:
            fix = f"Nothing, since batches continue each other; `Layout({line})` would say so."
        elif renewed and not declared:
            fix += f" If it is carried on purpose, `Layout({line})` declares it."
        return replace(finding, fix=fix)

    def _other(self, experiment: Experiment, seen: _Seen) -> Iterator[Finding]:
        """What holds no sample of its own; in training that is a matter of course."""
        if seen.how == "training":
            return
        first = seen.culprits[0]
        numbers = any(is_content(leaf) for _, leaf in _held(experiment, seen, first))
        only_loss = seen.name == LOSS and bool(experiment.outputs)
        once = is_settled(experiment, first, seen.before)
        yield replace(
            _said(
                self,
                experiment,
                seen,
                Verdict.WARN if numbers and not only_loss and not once else Verdict.NOTE,
                "is written in evaluation mode, and read by the next batch",
                first,
            ),
            fix=f"Write `{first.site}` in training only (`if self.training:`), or not at all.",
        )

    def _written(self, seen: _Seen, written: Rewritten) -> Iterator[Finding]:
        """Parameters that a pass writes itself; in training it may be an average's update."""
        if seen.how == "training" or seen.share < DRIFT:
            return
        first, more = written.names[0], len(written.names) - 1
        yield replace(
            self._unnamed(
                seen,
                f"`{first}`{f' and {more} more' if more else ''} is written in evaluation, beside "
                f"the optimizer, and read by the next batch: its {_what(seen)}.",
            ),
            fix=f"Do not write `{first}` in `forward`, `eval` or `train`; or take off what was "
            "added before it is added again.",
            site=first.rpartition(".")[0] or "model",
            source=written.source,
        )

    def _outside(self, experiment: Experiment, seen: _Seen) -> Iterator[Finding]:
        past, act = _given(seen.act, seen.before), _given(seen.act, experiment.batch)
        found = None if seen.name.startswith(ERROR) else strayed(experiment, past, act)
        if found is None:
            told = "no attribute, buffer or parameter of the model carries it"
            yield self._unnamed(
                seen,
                f"the result of a batch depends on the batch before it, in {seen.how}: its "
                f"{_what(seen)}; {told}, so the subject's own code does.",
            )
        elif seen.how == "evaluation" or has_samples(experiment, found):
            yield replace(
                self._unnamed(
                    seen,
                    f"{found.words} outlives the call: the batch before left its own there, in "
                    f"{seen.how}, and the {_what(seen)}.",
                ),
                fix=f"Make `{found.name}` anew in every call; a default value is made once, when "
                "the function is defined: say `None`.",
                site=found.site,
                source=found.source,
            )

    def _unnamed(self, seen: _Seen, message: str) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=message,
            fix="Look for a global, a closure or a cached function that keeps a state or a result.",
            site=LOSS,
            phase="forward",
            evidence=(Evidence(f"largest change of {_called(seen)}", seen.share, seen.limit),),
        )

    def _missing(self, experiment: Experiment) -> Iterator[Finding]:
        """A state that is declared to be carried over batches, of which nothing is seen."""
        carried = [s for s in experiment.declared.states if s.over == "batch" and s.carried]
        if not any(carried and later_goes_on(experiment, act) for act in ACTS.values()):
            for each in carried:
                yield Finding(
                    code=self.code,
                    rule=self.rule,
                    verdict=Verdict.FAIL,
                    message=f"`{each.site}` is declared to be carried from batch to batch, and no "
                    "result depends on the batch before.",
                    fix="Keep the final state and start the next batch from it; or declare "
                    f"`State({each.site!r}, over='batch', carried=False)`.",
                    site=each.site,
                    phase="forward",
                    evidence=(Evidence("effect of the batch before", 0.0),),
                )


def _given(act: Act, batch: Batch) -> Callable[[Life], Outputs]:
    return lambda life: act(life, batch)


def _said(
    check: LeftOver,
    experiment: Experiment,
    seen: _Seen,
    verdict: Verdict,
    told: str,
    first: Attribute,
) -> Finding:
    others = [f"`{each.site}`" for each in seen.culprits if each != first]
    also = f" (with {', '.join(others)})" if others else ""
    return Finding(
        code=check.code,
        rule=check.rule,
        verdict=verdict,
        message=f"`{first.site}`{also} {told}: with another batch before it, in {seen.how}, the "
        f"same batch's {_what(seen)}.",
        fix="",
        site=first.site,
        phase="forward",
        source=written_at(experiment.subject.model, first),
        evidence=(Evidence(f"largest change of {_called(seen)}", seen.share, seen.limit),),
    )


def _called(seen: _Seen) -> str:
    if seen.name.startswith(START):
        return f"the first state of `{seen.name.removeprefix(START)}`"
    return "the loss" if seen.name == LOSS else f"`{seen.name}`"


def _what(seen: _Seen) -> str:
    """The end of a sentence that begins with the batch's."""
    if seen.name.startswith(START):
        return (
            f"first state in `{seen.name.removeprefix(START)}` is another one, which the present "
            "weights forget before the end, so that no output shows it yet"
        )
    if seen.name.startswith(ERROR):
        return f"result is an error: {seen.name.removeprefix(ERROR)}"
    name = "loss" if seen.name == LOSS else f"`{seen.name}`"
    return f"{name} changes by {100 * seen.share:.2g}%"


def _kept(experiment: Experiment, seen: _Seen) -> list[Attribute]:
    return [
        each
        for each in seen.culprits
        if _has_samples(experiment, seen, each) or _is_recurrent(experiment, seen, each)
    ]


def _held(experiment: Experiment, seen: _Seen, attribute: Attribute) -> Leaves:
    life = Life(experiment)
    seen.act(life, seen.before)
    return life.contents.get(attribute, ())


def _is_renewed(experiment: Experiment, seen: _Seen, attribute: Attribute) -> bool:
    """Whether the second batch writes the attribute too."""
    life = Life(experiment)
    seen.act(life, seen.before)
    before = life.contents[attribute]
    seen.act(life, experiment.batch)
    return not same(before, life.contents.get(attribute))


def _memo(experiment: Experiment, seen: _Seen) -> list[Attribute]:
    """What is kept of the batch before, has its samples, and goes by a key that is the culprit."""
    life = Life(experiment)
    seen.act(life, seen.before)
    moved = changed(Life(experiment).contents, life.contents) if seen.culprits else []
    return [
        each
        for each in moved
        if any(is_content(leaf) for _, leaf in life.contents.get(each, ()))
        and not _is_renewed(experiment, seen, each)
        and _has_samples(experiment, seen, each)
    ]


def _is_recurrent(experiment: Experiment, seen: _Seen, attribute: Attribute) -> bool:
    """Whether it holds what a recurrent module gave, or was given, as its state."""
    life = Life(experiment)
    try:
        calls = [call for each in life.recurrent(seen.before) for call in each.calls]
    except ExperimentError:
        return False
    states = [held.value for call in calls for held in (*call.before, *call.gave)]
    leaves = life.contents.get(attribute, ())
    return any(
        is_content(leaf) and any(equal(leaf, state) for state in states) for _, leaf in leaves
    )


def _has_samples(experiment: Experiment, seen: _Seen, attribute: Attribute) -> bool:
    return has_entries(
        experiment,
        lambda before: _held(experiment, replace(seen, before=before), attribute),
        seen.before,
    )
