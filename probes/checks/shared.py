"""WIR017: parameters are shared that should not be, or are not though they should."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from probes.bus import Bus, Kind, See
from probes.experiment import Experiment, attempted, copied
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.modules import every_module
from probes.replay import Snapshot, replay
from probes.stepping.both_trained import BothTrained, both_trained
from probes.stepping.on_purpose import on_purpose
from probes.stepping.one_memory import OneMemory, one_memory


@dataclass(frozen=True, slots=True)
class Shared:
    """One module stands under several names by accident, or what is to be tied is not.

    The same layer several times in one `nn.ModuleList` or `nn.Sequential` is a warning, since
    `[layer] * n` makes one layer and not n, but a note where something says that it is meant: a
    parameter beside it with an entry for each time, a class called `Shared...`. Two names of one
    module that are called on the same input, as two heads are, and give the same, are a warning.
    What is not trained, as a target network, and lies in the memory of what is, since its `data`
    was set and not written, moves with it and is a fault, at the start or once a step lays it so.
    Two parameters in one memory that are trained both are a warning, but a note where their first
    step is nearly that of one parameter with the sum of their gradients, as plain SGD's is.
    `Layout.tied` says what is one on purpose, and is a fault where it is not one; so is, as a
    warning, a transformers model whose configuration ties the embeddings while its head has
    weights of its own.

    Sick: `nn.ModuleList([nn.Linear(8, 8)] * 4)`; `model.lm_head = nn.Linear(...)` of a tied model;
    `target.data = online.data`; `head.weight = nn.Parameter(embedding.weight)`.
    Healthy: `head.weight = embedding.weight`; one layer that is called four times.
    """

    rounding: float = 0.05  # by which a step may differ from that of one parameter

    code: ClassVar[str] = "WIR017"
    rule: ClassVar[str] = "shared-parameters"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing."""
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding for what is not tied, what lies in one memory, each module that is twice."""
        model, tied = experiment.subject.model, experiment.declared.tied
        yield from self._untied(model, tied)
        meant = {name for pair in tied for name in pair}
        laid = one_memory(experiment.subject, experiment.step_batch)
        if laid is not None and not meant & {*laid.still, *laid.trained}:
            yield self._laid(laid)
        both = both_trained(experiment.subject, experiment.step_batch)
        if both is not None:
            yield self._both(both)
        for names in _several(model):
            if meant & {f"{name}.weight" for name in names} | meant & set(names):
                continue
            row = _row(model, names)
            if row is not None:
                count = sum(name.rpartition(".")[0] == row for name in names)
                yield self._twice(names, row, on_purpose(model, row, count))
            elif _same_input(experiment, names):
                yield self._twice(names, None, None)
            elif _beside(names) and _is_own_target(experiment, names[0]):
                yield self._target(names)

    def _untied(self, model: nn.Module, tied: tuple[tuple[str, str], ...]) -> Iterator[Finding]:
        found = dict(model.named_parameters(remove_duplicate=False))
        for one, two in tied:
            lost = next((name for name in (one, two) if name not in found), None)
            if lost is not None:
                why = f"`{lost}` is declared tied, but there is no such parameter"
                yield self._said(Verdict.WARN, why, lost, "Correct its name in `Layout.tied`.")
            elif not _is_one(found[one], found[two]):
                why = f"`{one}` and `{two}` are declared tied, but each has weights of its own"
                yield self._said(Verdict.FAIL, why, two, f"Set `{two}` to `{one}` itself.")
        for name, module in model.named_modules():
            yield from self._replaced(name, module)

    def _replaced(self, name: str, module: nn.Module) -> Iterator[Finding]:
        if not getattr(getattr(module, "config", None), "tie_word_embeddings", False):
            return
        try:
            head, words = module.get_output_embeddings(), module.get_input_embeddings()  # type: ignore[operator]
        except (AttributeError, NotImplementedError):
            return
        one, two = getattr(head, "weight", None), getattr(words, "weight", None)
        if one is None or two is None or _is_one(one, two) or one.shape != two.shape:
            return
        site = next((n for n, m in module.named_modules() if m is head), name)
        place = f"{name}.{site}" if name else site
        why = f"the configuration ties the embeddings, but `{place}` has weights of its own"
        fix = "Call `model.tie_weights()` after the head is replaced, or say "
        yield self._said(Verdict.WARN, why, f"{place}.weight", f"{fix}`tie_word_embeddings=False`.")

    def _twice(self, names: list[str], row: str | None, meant: str | None) -> Finding:
        where = "have the same input" if row is None else f"stand in {_quoted(row)}"
        why = (
            f"`{names[0]}` and `{names[1]}` are one module{_more(names)}, and {where}: they share "
            "every weight"
        )
        if meant is not None:
            why += f", which seems meant: {meant}"
            fix = "Nothing, if one module is to be used so many times."
            return self._said(Verdict.NOTE, why, f"{names[1]}.weight", fix, len(names))
        fix = "Make one module each: `nn.ModuleList(make() for _ in range(n))`; or declare "
        line = f"`Layout(tied=(({names[0] + '.weight'!r}, {names[1] + '.weight'!r}),))`."
        return self._said(Verdict.WARN, why, f"{names[1]}.weight", fix + line, len(names))

    def _target(self, names: list[str]) -> Finding:
        why = (
            f"`{names[0]}` and `{names[1]}` are one module, which the loss calls with a gradient "
            "and without: what it is to be compared with moves along with every step"
        )
        fix = f"Let `{names[1]}` be `copy.deepcopy` of `{names[0]}`, and renew it now and then; or "
        line = f"declare `Layout(tied=(({names[0]!r}, {names[1]!r}),))`."
        return self._said(Verdict.WARN, why, f"{names[1]}.weight", fix + line, len(names))

    def _laid(self, found: OneMemory) -> Finding:
        several = len(found.still) > 1
        more = f" and {len(found.still) - 1} more, which are" if several else ", which is"
        since = f" from call {found.step} of the step on" if found.step else ""
        why = (
            f"`{found.still[0]}`{more} not trained, {'lie' if several else 'lies'}{since} in the "
            f"very memory of `{found.trained[0]}`{' and others' if several else ''}, which is: "
            "what is to stand still moves with every step"
        )
        fix = "Copy the numbers and not the memory: `target.data.copy_(online.data)`, "
        how = "`load_state_dict`, or `.clone()`."
        site = found.still[0].rpartition(".")[0] or found.still[0]
        verdict = Verdict.FAIL if several else Verdict.WARN
        finding = self._said(verdict, why, found.still[0], fix + how)
        return replace(
            finding,
            site=_outermost(found.still) or site,
            source=found.source,
            evidence=(Evidence("tensors in the memory of others", len(found.still), 0),),
        )

    def _both(self, found: BothTrained) -> Finding:
        one, two = found.names[0], found.names[-1]
        apart, farther = found.apart, found.farther
        evidence = [Evidence("parameters in one memory that are trained", len(found.names), 1)]
        step = ""
        if apart is not None and farther is not None:
            step = (
                f" (their first step goes {farther:.3g} times as far as that of one parameter, "
                f"and is {100 * apart:.3g}% of that away from it)"
            )
            evidence.append(Evidence("share that their step is away", apart, self.rounding))
        why = (
            f"`{one}` and `{two}` are {len(found.names)} parameters in one memory, and the "
            "optimizer holds each: each has its own part of the gradient and a state of its own, "
            f"and what they hold is written {len(found.names)} times in a step{step}; a copy or "
            "a move to a device parts them"
        )
        fix = f"Let `{two}` be `{one}` itself, and no `nn.Parameter` that is made of it."
        alike = apart is not None and apart <= self.rounding
        finding = self._said(Verdict.NOTE if alike else Verdict.WARN, why, two, fix)
        return replace(finding, source=found.source, evidence=tuple(evidence))

    def _said(
        self, verdict: Verdict, why: str, name: str, fix: str, count: int | None = None
    ) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=verdict,
            message=f"{why}.",
            fix=fix,
            site=name.rpartition(".")[0] or name,
            evidence=() if count is None else (Evidence("names of one module", count, 1),),
        )


def _outermost(names: tuple[str, ...]) -> str:
    """The innermost module that holds all of them."""
    parts = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return ".".join(each[0] for each in takewhile(lambda each: len(set(each)) == 1, parts))


def _is_one(one: Tensor, two: Tensor) -> bool:
    return one is two or (one.data_ptr() == two.data_ptr() and one.shape == two.shape)


def _more(names: list[str]) -> str:
    return f" that has {len(names)} names" if len(names) > 2 else ""


def _several(model: nn.Module) -> Iterator[list[str]]:
    """The names of each module with parameters that has several; outermost modules alone."""
    found: dict[int, list[str]] = defaultdict(list)
    inner: set[int] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if any(True for _ in module.parameters()):
            found[id(module)].append(name)
    for name, module in model.named_modules():
        if len(found.get(id(module), ())) > 1 and name not in inner and id(module) not in inner:
            inner |= {id(each) for each in module.modules()}
            yield found[id(module)]


def _row(model: nn.Module, names: list[str]) -> str | None:
    """The list or sequence that holds it under two of these names."""
    parents = [name.rpartition(".")[0] for name in names]
    modules = dict(model.named_modules(remove_duplicate=False))
    rows = (nn.ModuleList, nn.Sequential, nn.ModuleDict)
    twice = (p for p in parents if parents.count(p) > 1 and isinstance(modules[p], rows))
    return next(twice, None)


def _quoted(row: str) -> str:
    return f"`{row}`" if row else "the model's own row"


def _same_input(experiment: Experiment, names: list[str]) -> bool:
    """Whether the module is called at least twice, on equal tensors, from two names."""
    events = [
        each.value
        for each in experiment.evaluated.ran.events
        if each.kind is Kind.INPUT and each.module in names and each.value is not None
    ]
    calls = _forward_passes(experiment)
    pairs = [(a, b) for i, a in enumerate(events) for b in events[i + 1 :]]
    same = sum(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)
    # prediction and loss run the model each: so many equal pairs come from that alone
    alone = len(events) // calls * (calls * (calls - 1) // 2) if calls > 1 else 0
    return same > alone


def _beside(names: list[str]) -> bool:
    """Whether they are attributes of one module."""
    return len({name.rpartition(".")[0] for name in names}) == 1


def _is_own_target(experiment: Experiment, name: str) -> bool:
    """Whether the loss calls it with a gradient, and on something else without."""
    subject, given = experiment.subject, _Outputs(name)
    found: list[bool] = []

    def step() -> Tensor:
        with attempted("`Subject.loss`"):
            loss = subject.loss(subject.model, copied(experiment.batch))
        live = [t for t in given.seen if t.requires_grad]
        grads = torch.autograd.grad(loss, live, allow_unused=True) if loss.requires_grad else ()
        learn = [t for t, grad in zip(live, grads, strict=False) if grad is not None]
        still = [t for t in given.seen if all(t is not each for each in learn)]
        found.append(bool(learn) and any(not _is_any(t, learn) for t in still))
        return loss.detach()

    try:
        with Bus(subject.model, [given], whole=True) as given.bus:
            replay(step, subject.model, Snapshot.take(subject.model))
    except ExperimentError:
        return False
    return bool(found) and found[0]


def _is_any(tensor: Tensor, others: list[Tensor]) -> bool:
    return any(tensor.shape == each.shape and torch.equal(tensor, each) for each in others)


class _Outputs:
    """Keeps what one module gives."""

    def __init__(self, name: str) -> None:
        self.seen: list[Tensor] = []
        self.sees: Mapping[Kind, See] = {Kind.OUTPUT: self.see}
        self.bus: Bus | None = None
        self._name = name

    def see(self, number: int, tensor: Tensor) -> None:
        assert self.bus is not None
        if self.bus.sites[number].name.partition("[")[0] == self._name:
            self.seen.append(tensor)


def _forward_passes(experiment: Experiment) -> int:
    root = next(every_module(experiment.subject.model))[0]
    events = experiment.evaluated.ran.events
    count = sum(e.module == root and e.kind is Kind.OUTPUT and "[" not in e.site for e in events)
    return max(1, min(count, 2 if experiment.subject.predict is not None else 1))
