"""Comparisons that are to find a key's marks, after something has bounded these away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from probes.batch import leaves
from probes.bus import Bus, Kind, See
from probes.experiment import LOSS, Experiment, attempted, copied
from probes.finding import ExperimentError
from probes.operators.bounded import Bound, Bounded, Compared
from probes.replay import Snapshot, replay
from probes.running import at_work, names_of
from probes.subject import Batch

MOVED = 1e-5  # of the loss
FAR = 2.0  # times as far from zero as anything else, what is a mark though others have its sign


@dataclass(frozen=True, eq=False)
class Defeated:
    """Places of a key that one mark is on, which counts in the loss as what a bound made of it.

    count: such places, of `entries` that are compared. filled: what the bound made of the mark,
    None of several numbers. loss, without: as it is, and where the comparison is of the key as it
    came. share: of the gradient of what the modules give, the part that is then gone.
    together: the bound and the comparison stand in one function.
    """

    key: str
    mark: float
    count: int
    entries: int
    filled: float | None
    compared: Compared
    bound: Bound
    loss: float
    without: float
    share: float

    @property
    def together(self) -> bool:
        """Whether the bound and the comparison stand in one function of the user's."""
        return self.compared.code is not None and self.compared.code is self.bound.code

    @property
    def site(self) -> str:
        """The module whose code compares."""
        return next(iter(self.compared.at), LOSS)


def marks(values: Tensor, least: int) -> tuple[float, ...]:
    """Numbers of a key that stand beyond all others, often enough to be no chance.

    That is NaN, an infinity, one negative number, or one far from all others.
    """
    if values.dtype is torch.bool or values.is_complex() or not values.numel():
        return ()
    wide = values.detach().double().flatten()
    usual = wide[wide.isfinite()]
    if not len(usual):
        return ()
    odd = (("nan", wide.isnan()), ("inf", wide == torch.inf), ("-inf", wide == -torch.inf))
    found = [float(name) for name, where in odd if int(where.sum()) >= least]
    for end in (usual.min(), usual.max()):
        others = usual[usual != end]
        if len(others) and len(usual) - len(others) >= least and _is_beyond(float(end), others):
            found.append(float(end))
    return tuple(found)


def _is_beyond(end: float, others: Tensor) -> bool:
    apart = end < 0 <= float(others.min())
    return apart or abs(end) >= FAR * float(others.abs().max()) + FAR


def marked_keys(experiment: Experiment, least: int) -> dict[str, tuple[float, ...]]:
    """Keys of the whole batch with their marks."""
    every = {
        key: marks(each, least)
        for key, each in leaves(_whole(experiment)).items()
        if isinstance(each, Tensor)
    }
    return {key: found for key, found in every.items() if found}


def _whole(experiment: Experiment) -> Batch:
    """With all its samples, as few of which may be marked."""
    return experiment.batch if experiment.uncut is None else experiment.uncut


def defeated(experiment: Experiment, least: int) -> Iterator[Defeated]:
    """One for each key and line. Raises ExperimentError where the loss raises as it is."""
    marked = marked_keys(experiment, least)
    first = _Pass(experiment, tuple(marked))
    first.run()
    for lost in _grouped(first, marked):
        trial = _Trial(experiment, tuple(marked), lost)
        if trial.is_of_note(least):
            try:
                told = trial.told()
            except ExperimentError:  # what is changed is more than the code bears
                continue
            if told is not None:
                yield told


@dataclass(frozen=True, slots=True, eq=False)
class _Lost:
    """A comparison that a bound has settled, and the mark that it was to find."""

    compared: Compared
    bound: Bound
    mark: float


def _grouped(seen: _Pass, marked: Mapping[str, Sequence[float]]) -> Iterator[list[_Lost]]:
    """Those of one key and line, but for lines that tell marks elsewhere: they are of use there."""
    lines: dict[tuple[str, str | None, str | None], list[_Lost]] = {}
    for each in seen.mode.found:
        lost = None if each.source in seen.mode.telling else _lost(each, marked[each.key])
        if lost is not None:
            lines.setdefault((each.key, each.source, lost.bound.source), []).append(lost)
    yield from lines.values()


def _lost(each: Compared, marked: Sequence[float]) -> _Lost | None:
    for mark in marked:
        if bool(is_at(each.values[each.lost], mark).all()):
            bounds = (b for b in each.bounds if bool(_changed(b, mark).any()))
            bound = next(bounds, None)
            return None if bound is None else _Lost(each, bound, mark)
    return None


def is_at(values: Tensor, mark: float) -> Tensor:
    """Where that number stands, be it NaN."""
    return values.isnan() if mark != mark else values == mark


def _changed(bound: Bound, mark: float) -> Tensor:
    return is_at(bound.before, mark) & ~is_at(bound.after, mark)


@dataclass(eq=False)
class _Outputs:
    """Shown what modules give to code that none of them is around, but for some.

    but: modules that do not count. kept: what each tensor is to be, by its order; where it is
    known, it is written over with that. live: the tensors themselves.
    """

    names: Mapping[int, str]
    but: frozenset[str]
    kept: Sequence[Tensor] = ()
    live: list[Tensor] = field(default_factory=list)
    sees: Mapping[Kind, See] = field(init=False)

    def __post_init__(self) -> None:
        self.sees = {Kind.OUTPUT: self.see}

    def see(self, _: int, tensor: Tensor) -> None:
        if len(set(at_work(self.names)) - self.but) != 1:
            return
        at = len(self.live)
        self.live.append(tensor)
        if at < len(self.kept) and self.kept[at].shape == tensor.shape:
            tensor.data.copy_(self.kept[at])


@dataclass(eq=False)
class _Pass:
    """One pass through the loss in evaluation mode."""

    experiment: Experiment
    keys: tuple[str, ...]
    answers: Mapping[int, Tensor] = field(default_factory=dict)
    results: Mapping[int, Tensor] = field(default_factory=dict)
    mode: Bounded = field(init=False)

    def run(self, outputs: _Outputs | None = None) -> tuple[float, list[Tensor], list[Tensor]]:
        """The loss, what modules gave around which it stands, and the loss's gradients of these."""
        subject, own = self.experiment.subject, copied(_whole(self.experiment))
        model, kept, grads = subject.model, list[Tensor](), list[Tensor]()
        given = {key: leaf for key, leaf in leaves(own).items() if key in self.keys}
        self.mode = Bounded(model, given, self.answers, self.results)

        def step() -> Tensor:
            with self.mode, attempted("`Subject.loss`, in evaluation mode,"):
                loss = subject.loss(model.eval(), own)
            if outputs is not None:
                kept.extend(each.detach().clone() for each in outputs.live)
                grads.extend(_gradients(loss, outputs.live))
            return loss.detach()

        without = torch.backends.cudnn.flags(enabled=False)
        with Bus(model, [] if outputs is None else [outputs], whole=True):
            loss = replay(step, model, Snapshot.take(model), under=[without]).loss
        return float(loss), kept, grads


def _gradients(loss: Tensor, live: Sequence[Tensor]) -> list[Tensor]:
    """Zeros where the loss does not depend on a tensor."""
    wanted = [each for each in live if each.requires_grad]
    if not wanted or not loss.requires_grad:
        return []
    with attempted("the backward pass of an experiment"):
        found = torch.autograd.grad(loss, wanted, allow_unused=True)
    pairs = zip(wanted, found, strict=True)
    return [torch.zeros_like(one) if grad is None else grad for one, grad in pairs]


@dataclass(eq=False)
class _Trial:
    """What comes of it where comparisons of one line find the marks, or marks become others."""

    experiment: Experiment
    keys: tuple[str, ...]
    lost: Sequence[_Lost]

    @cached_property
    def bounds(self) -> dict[int, tuple[Bound, Tensor]]:
        """Each bound by its order, with the places of the mark."""
        return {e.bound.order: (e.bound, _changed(e.bound, e.mark)) for e in self.lost}

    @cached_property
    def filled(self) -> Tensor:
        """What the bounds made of the mark."""
        return _kinds(bound.after[at] for bound, at in self.bounds.values())

    @cached_property
    def others(self) -> Tensor:
        """What else the bounds gave."""
        return _kinds(bound.after[~at] for bound, at in self.bounds.values())

    def is_of_note(self, least: int) -> bool:
        """Whether marked places are mistaken for others, and are not a class of their own.

        Of -1 and 1, of which -1 becomes 0, -1 is a class, as far as anybody can tell.
        """
        if sum(int(each.compared.lost.sum()) for each in self.lost) < least:
            return False
        whole = bool((self.others == self.others.round()).all())
        own = not bool(torch.isin(self.filled, self.others).all())
        is_number = abs(self.lost[0].mark) < float("inf")
        return not (is_number and whole and own)

    def told(self) -> Defeated | None:
        """None where the loss does not show that what is marked counts."""
        places = {name for e in self.lost for name in (*e.compared.at, *e.bound.at)}
        names = names_of(self.experiment.subject.model)
        shown = _Outputs(names, frozenset(places))
        loss, kept, grads = self._pass().run(shown)
        others = self._others()
        if others is None or not grads:
            return None
        moved, _, _ = self._pass(results=others).run(_Outputs(names, shown.but, kept))
        answers = {e.compared.order: e.compared.raw for e in self.lost}
        without, _, after = self._pass(answers).run(_Outputs(names, shown.but, kept))
        if not _differ(loss, moved) or not _differ(loss, without) or len(after) != len(grads):
            return None
        gone = [(one != 0) & (two == 0) for one, two in zip(grads, after, strict=True)]
        if not any(bool(e.any()) for e in gone) or not any(bool(e.any()) for e in after):
            return None
        size = sum(float(each.abs().sum()) for each in grads)
        share = sum(float(e[at].abs().sum()) for e, at in zip(grads, gone, strict=True)) / size
        return self._defeated(loss, without, share)

    def _pass(
        self,
        answers: Mapping[int, Tensor] | None = None,
        results: Mapping[int, Tensor] | None = None,
    ) -> _Pass:
        return _Pass(self.experiment, self.keys, answers or {}, results or {})

    def _others(self) -> dict[int, Tensor] | None:
        """What the bounds are to give, where the marks are as others are; None without others."""
        left = self.others[~torch.isin(self.others, self.filled)]
        if not len(left):
            return None
        results = {}
        for order, (bound, at) in self.bounds.items():
            fresh = left[torch.arange(int(at.sum()), device=left.device) % len(left)]
            results[order] = bound.after.masked_scatter(at, fresh)
        return results

    def _defeated(self, loss: float, without: float, share: float) -> Defeated:
        first = self.lost[0]
        return Defeated(
            key=first.compared.key,
            mark=first.mark,
            count=sum(int(each.compared.lost.sum()) for each in self.lost),
            entries=sum(each.compared.lost.numel() for each in self.lost),
            filled=float(self.filled) if len(self.filled) == 1 else None,
            compared=first.compared,
            bound=first.bound,
            loss=loss,
            without=without,
            share=share,
        )


def _kinds(values: Iterator[Tensor]) -> Tensor:
    kinds: Tensor = torch.cat(list(values)).unique()
    return kinds


def _differ(one: float, two: float) -> bool:
    """Whether both are finite and apart."""
    apart = abs(one - two)
    return MOVED * max(abs(one), abs(two)) < apart < float("inf")
