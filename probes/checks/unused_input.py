"""WIR007: an input that nothing depends on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.bus import Kind
from probes.compare import Difference
from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.modules import every_module
from probes.reading.alive import alive, site_of
from probes.reading.changed import all_changed, changed
from probes.reading.effects import Effect, effect_of, halved, moves_the_step
from probes.reading.handed import Handed, handed_instead
from probes.reading.indexing import Pick
from probes.reading.lost import Lost, lost_of
from probes.reading.passed_over import forgotten, read_twice, starts_from_zero
from probes.reading.read_apart import seen_apart
from probes.reading.read_places import unread_places
from probes.reading.same_twice import Twice, encoded_twice
from probes.reading.unread_results import is_dropped
from probes.states.recurrence import Recurrent
from probes.stepping.fading import FIX, fading
from probes.subject import Batch

FEW = 4  # places that are named, and keys that are followed
RESTING = "Nothing, if what comes next starts from zero weights on purpose."


@dataclass(frozen=True, slots=True)
class UnusedInput:
    """Changing a key of the batch moves neither the loss, nor any output, nor the step.

    Each tensor gets other values out of its own; a mask hides one more position. That no key
    at all has an effect is a fault, or a note where it is seen inside of a model with weights of
    nothing but zeros, such as a head that starts from zero; that declared labels, or what an
    output is declared to read, have none is a warning, and so is a key that a module of weights
    does read, whose output nobody uses, or that one call of a recurrent module reads, which
    its next call begins without; or an index whose twin, of the same kind of name, is looked up
    twice in one place; or a parameter of the model's `forward` that is given what another of its
    parameters is called; or a key of the same kind as one that the same weights read twice, where
    what they made of it meets itself. Any other unread key is a note, a mask as well, since batches
    carry what no model reads; whether a mask is missed, MSK001 says. Of ids that an embedding
    reads, places that nobody reads in any sample are told as well: a note, and a warning where an
    output is declared to read the key by `all` or `same`. A key that holds one value only is left
    out. The step is what a `train_step` minimises: of a loss that is a report its terms may cancel.

    Sick: `model(batch["x"] * 0)`.
    Healthy: `model(batch["x"])`.
    """

    code: ClassVar[str] = "WIR007"
    rule: ClassVar[str] = "unused-input"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Tensors in the batch."""
        return None if experiment.tensors else "the batch holds no tensor"

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a key that is not read, or one for them all."""
        others = {key: changed(experiment, key) for key in experiment.tensors}
        batches = {key: batch for key, batch in others.items() if batch is not None}
        effects = dict.fromkeys(seen_apart(experiment, batches), Effect(True, True))
        labels = {each.key for each in experiment.layout.labels}
        for key in sorted(labels & batches.keys() - effects.keys()):  # which move the loss alone
            effects[key] = effect_of(experiment, batches[key])
        effects |= halved(experiment, {k: b for k, b in batches.items() if k not in effects})
        unread = [key for key in batches if not effects[key].any]
        unread = [key for key in unread if not moves_the_step(experiment, batches[key])]
        lost = [key for key in unread if key not in labels]
        alone = lost and not any(effect.outputs for effect in effects.values())
        handed = bool(alone) and _is_handed(experiment, lost)
        if alone and (handed or not effects.keys() - labels - set(lost)):
            reached = _reaches(experiment, lost)
            if reached is not None and starts_from_zero(experiment):
                seen = f"it can be seen up to `{reached}`"
                yield self._none(lost, seen, Verdict.NOTE, RESTING, "<data>")
            elif (fades := fading(experiment)) is not None and fades.hides:
                yield self._none(lost, fades.words, Verdict.FAIL, FIX, fades.site)
            else:
                yield self._nothing(experiment, lost, reached, handed, _where(experiment, lost))
            return
        yield from self._each(experiment, {key: batches[key] for key in unread})
        whole = {each.of for each in experiment.declared.reads if each.rule in ("all", "same")}
        for key in [key for key in batches if key not in labels and key not in unread]:
            if places := unread_places(experiment, key):
                yield self._passed_over(experiment, key, places, key in whole)

    def _each(self, experiment: Experiment, batches: Mapping[str, Batch]) -> Iterator[Finding]:
        """Of keys that nothing reads, with the batches in which they hold something else."""
        told = {key: self._of(experiment, key, batches) for key in batches}
        yield from (finding for finding in told.values() if finding is not None)
        declared = experiment.declared
        meant = {each.key for each in declared.labels} | {each.of for each in declared.reads}
        idle = [key for key, finding in told.items() if finding is None]
        gone = _gone(experiment, {key: batches[key] for key in idle})
        yield from (self._gone(experiment, k, x, k in meant) for k, x in gone.items())
        idle = [key for key in idle if key not in gone]
        for keys, verdict in (
            ([key for key in idle if key in meant], Verdict.WARN),
            ([key for key in idle if key not in meant], Verdict.NOTE),
        ):
            if keys:
                yield self._unread(experiment, keys, verdict)

    def _of(self, experiment: Experiment, key: str, unread: Iterable[str]) -> Finding | None:
        """Where the key is lost on its way; None where nobody touches it."""
        if (dropped := _dropped(experiment, key)) is not None:
            return self._lost(key, dropped, is_dropped(experiment, dropped))
        if (calls := forgotten(experiment, key, lambda: _sites(experiment, [key]))) is not None:
            return self._forgotten(key, calls)
        if (twin := read_twice(experiment, key)) is not None:
            return self._twin(experiment, key, *twin)
        if (handed := handed_instead(experiment, key)) is not None:
            return self._instead(experiment, key, handed)
        if (twice := encoded_twice(experiment, key, unread)) is not None:
            return self._twice(key, twice)
        return None

    def _nothing(
        self,
        experiment: Experiment,
        keys: list[str],
        reached: str | None,
        handed: bool,
        at: Lost | None,
    ) -> Finding:
        until = "" if reached is None else f"; it can be seen up to `{reached}`"
        site = "<data>" if reached is None else reached.partition("[")[0]
        if at is not None:
            until += f"; {_gives_the_same(at)}"
            root = next(every_module(experiment.subject.model))[0]
            site = at.site or (root if handed else LOSS)
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=_without_effect(keys) + f"{until}.",
            fix="Look where the input gets lost: a mask that hides everything, a constant in its "
            "place, a multiplication by zero, another batch that the code reads.",
            site=site,
            op=None if at is None else at.op,
            phase="forward",
            source=None if at is None else at.source,
            evidence=(Evidence("keys with an effect", 0, 1, f"of {len(keys)}"),),
        )

    def _none(self, keys: list[str], told: str, verdict: Verdict, fix: str, site: str) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=verdict,
            message=f"{_without_effect(keys)}; {told}.",
            fix=fix,
            site=site,
            phase="forward",
            evidence=(Evidence("keys with an effect", 0, 1, f"of {len(keys)}"),),
        )

    def _lost(self, key: str, module: str, known: bool) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.NOTE if known else Verdict.WARN,  # WIR002 says where it is let go
            message=f"`{module}` reads `{key}`, but nobody uses what it gives: with other values "
            f"in `{key}`, loss and outputs are the same, and `{module}` does not learn.",
            fix=f"Hand the output of `{module}` on, or leave `{module}` and `{key}` out.",
            site=module,
            phase="forward",
            evidence=(Evidence(f"largest effect of changing `{key}`", 0.0),),
        )

    def _forgotten(self, key: str, read: Recurrent) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{read.site}` reads `{key}`, and its state is lost: the next call begins "
            f"without it, so that with other values in `{key}` loss and outputs are the same.",
            fix=f"Start the next call of `{read.site}` from the state that this one returned.",
            site=read.site,
            phase="forward",
            source=read.calls[1].source,
            evidence=(Evidence(f"largest effect of changing `{key}`", 0.0),),
        )

    def _twin(self, experiment: Experiment, key: str, twin: str, pick: Pick) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"nobody reads `{key}`, and `{twin}` is looked up twice in the same tensor: "
            f"with other values in `{key}`, loss and outputs are the same.",
            fix=f"Look up `{key}` at one of the two.",
            site=site_of(experiment, alive(experiment), pick.order),
            op=pick.op,
            phase="forward",
            source=pick.line,
            evidence=(Evidence(f"largest effect of changing `{key}`", 0.0),),
        )

    def _instead(self, experiment: Experiment, key: str, handed: Handed) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"nobody reads `{key}`: the model is given `{handed.key}` as its `{key}`; with "
            f"other values in `{key}`, loss and outputs are the same.",
            fix=f"Hand `{key}` to it there.",
            site=next(every_module(experiment.subject.model))[0],
            phase="forward",
            source=handed.source,
            evidence=(Evidence(f"largest effect of changing `{key}`", 0.0),),
        )

    def _twice(self, key: str, twice: Twice) -> Finding:
        met = f"`{twice.op}`{f' at {twice.meets}' if twice.meets else ''}"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{twice.site}` is given `{twice.key}` twice, and nobody reads `{key}`, which "
            f"is of the same kind: {met} gets the same from both.",
            fix=f"Hand `{key}` to one of the two.",
            site=twice.site,
            op=twice.op,
            phase="forward",
            source=twice.source,
            evidence=(Evidence(f"largest effect of changing `{key}`", 0.0),),
        )

    def _unread(self, experiment: Experiment, keys: list[str], verdict: Verdict) -> Finding:
        told = [f"`{key}`{_hiding(experiment, key)}" for key in keys]
        named, it = (told[0], "it") if len(told) == 1 else (_joined(told), "them")
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=verdict,
            message=f"nobody reads {named}: with other values in {it}, loss and outputs are the "
            "same.",
            fix=f"Hand {_joined([f'`{key}`' for key in keys])} to what should read {it}."
            if verdict is Verdict.WARN
            else f"Nothing, if the model is not meant to read {it}.",
            site="<data>",
            phase="forward",
            evidence=tuple(Evidence(f"largest effect of changing `{key}`", 0.0) for key in keys),
        )

    def _gone(self, experiment: Experiment, key: str, at: Lost, meant: bool) -> Finding:
        site = at.site or next(every_module(experiment.subject.model))[0]
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN if meant else Verdict.NOTE,
            message=f"`{key}` is lost in `{site}`: {_gives_the_same(at)}, and with other values "
            f"in `{key}`, loss and outputs are the same.",
            fix=f"Look whether `{at.op}` is to lose `{key}` there.",
            site=site,
            op=at.op,
            phase="forward",
            source=at.source,
            evidence=(Evidence(f"largest effect of changing `{key}`", 0.0),),
        )

    def _passed_over(
        self, experiment: Experiment, key: str, places: list[int], meant: bool
    ) -> Finding:
        long = experiment.tensors[key].shape[-1]
        few = ", ".join(map(str, places[:FEW])) + (", ..." if len(places) > FEW else "")
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN if meant else Verdict.NOTE,
            message=f"nobody reads {len(places)} of {long} places of `{key}` in any sample: with "
            f"other values at {few}, loss and outputs are the same.",
            fix=f"Look for `{key}` being cut, or a loop that ends early."
            if meant
            else "Nothing, if the model is not meant to read those places.",
            site="<data>",
            phase="forward",
            where={"token": places[0]},
            evidence=(Evidence(f"places of `{key}` that are read by nobody", len(places), 0),),
        )


def _sites(experiment: Experiment, keys: list[str]) -> list[Difference]:
    """The sites that move when all these keys are changed."""
    ran = experiment.evaluate(all_changed(experiment, keys))
    return list(experiment.evaluated.against(ran).sites)


def _without_effect(keys: list[str]) -> str:
    named = ", ".join(f"`{key}`" for key in keys)
    return f"no input has any effect: loss and outputs are the same whatever {named} hold"


def _where(experiment: Experiment, keys: list[str]) -> Lost | None:
    """Where the input is lost: in a module, if one of the keys is, else in what comes after all.

    Labels are among the keys that move nothing where all scores are one and the same.
    """
    each = (lost_of(experiment, all_changed(experiment, [key])) for key in keys[:FEW])
    inside = next((lost for lost in each if lost is not None and lost.site), None)
    return inside or lost_of(experiment, all_changed(experiment, keys))


def _gone(experiment: Experiment, batches: Mapping[str, Batch]) -> dict[str, Lost]:
    """Where keys are lost that something reads, and that are no masks; of a few."""
    layout = experiment.layout
    known = {each.key for each in layout.masks} | {each.key for each in layout.labels}
    keys = [key for key in batches if key not in known]
    if not keys or lost_of(experiment, all_changed(experiment, keys)) is None:
        return {}
    found = {key: lost_of(experiment, batches[key]) for key in keys[:FEW]}
    return {key: at for key, at in found.items() if at is not None}


def _gives_the_same(at: Lost) -> str:
    """Of the operator that loses the input."""
    return f"`{at.op}`{f' at {at.source}' if at.source else ''} gives the same whatever it is given"


def _dropped(experiment: Experiment, key: str) -> str | None:
    """The last module of weights without a gradient that moves with the key; None without one."""
    still = []
    for name, module in experiment.subject.model.named_modules():
        own = [f"{name}.{n}" for n, p in module.named_parameters(recurse=False) if p.requires_grad]
        if own and all(experiment.stepped.grads.get(each) is None for each in own):
            still.append(name)
    try:
        moved = {one.module for one in _sites(experiment, [key])} if still else set()
    except ExperimentError:
        return None
    return next((name for name in reversed(still) if name in moved), None)


def _is_handed(experiment: Experiment, keys: list[str]) -> bool:
    """Whether the model itself is called with what the keys hold."""
    root = next(every_module(experiment.subject.model))[0]
    sites = _sites(experiment, keys)
    return any(one.module == root and one.kind is Kind.INPUT for one in sites)


def _reaches(experiment: Experiment, keys: list[str]) -> str | None:
    """The last site inside of the model that moves with the keys; None where none does."""
    root = next(every_module(experiment.subject.model))[0]
    inside = [one.site for one in _sites(experiment, keys) if one.module != root]
    return inside[-1] if inside else None


def _hiding(experiment: Experiment, key: str) -> str:
    """What it hides, where it is a mask."""
    counts = [int((~each.keep).sum()) for each in experiment.masks if each.mask.key == key]
    return f" (a mask that hides {max(counts)} positions)" if any(counts) else ""


def _joined(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
