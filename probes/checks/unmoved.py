"""WIR002: a parameter that the loss depends on, and that does not learn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.reading.unread_results import Dropped, dropped
from probes.scoring.asked_twice import AskedTwice, asked_twice
from probes.stepping.matters import matters
from probes.stepping.one_step import Stepped, reached_in

STEPS = 10  # in which a layer that is left out by chance is not left out at least once


@dataclass(frozen=True, slots=True)
class Unmoved:
    """A parameter that should train, and that the loss depends on, is unchanged after a step.

    Either no gradient comes there although the loss moves when the parameter is changed (the
    way back is cut: `detach`, `no_grad`, `.data`, `.item()`), in this step and in those after it,
    which draw anew and may leave out other layers, or there is a gradient and a
    learning rate, and the optimizer does not write; not by so little as a warm-up begins with,
    where the whole rate is enough for the number format. A parameter that is not used at all, or
    that the optimizer does not hold, is a note: a pooler that nobody reads, a teacher. It is a
    warning where the code that called its module does not keep what that gives, or by a name that
    no way through it reads before it is set anew: there it was to be read, and is lost; and where
    it is a head's whose twin, of the same make and reading the same, the loss asks for the labels
    of both, but for terms that mix labels, or hold several opinions of one thing.

    Sick: `head(encoder(x).detach())` with `Adam(model.parameters())`;
    `emb = time(t); emb = kind(y)`, and so `emb` without the time.
    Healthy: the same without `detach`; or the encoder frozen by `requires_grad_(False)`.
    """

    most: int = 200  # parameters that are changed one by one
    rounding: float = 1e-5  # of the largest gradient: what a bias before a normalisation gets

    code: ClassVar[str] = "WIR002"
    rule: ClassVar[str] = "parameter-does-not-learn"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A parameter that is to train."""
        trained = any(p.requires_grad for p in experiment.subject.model.parameters())
        return None if trained else "no parameter requires a gradient"

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding for what is cut off, one for what is unused, one for what is not written."""
        stepped, declared = experiment.stepped, experiment.declared.frozen
        live = {
            name: p
            for name, p in experiment.subject.model.named_parameters()
            if p.requires_grad and not name.startswith(declared or ("\0",)) and p.numel()
        }
        if experiment.subject.train_step is not None and experiment.order.bare:
            return  # gradients come, and are not there when the optimizer is: WIR022
        without = [name for name in live if stepped.grads.get(name) is None]
        silent = [name for name in without if name not in stepped.moved]
        read = [name for name in silent[: self.most] if matters(experiment, live[name])]
        unused = [name for name in silent if name not in read]
        held = _never_reached(experiment, [name for name in read if name in stepped.rates])
        if held:
            yield self._cut(held, Verdict.WARN, "the loss depends on it")
        if others := [name for name in read if name not in stepped.rates]:
            yield self._cut(others, Verdict.NOTE, "the optimizer does not hold it")
        trained = [name for name in silent[: self.most] if name in unused and name in stepped.rates]
        lost = dropped(experiment, trained) if trained else []
        yield from (self._dropped(each) for each in lost)
        unused = [name for name in unused if not any(name in each.names for each in lost)]
        twice = list(asked_twice(experiment, [name for name in unused if name in trained]))
        yield from (self._asked_twice(each) for each in twice)
        if unused := [name for name in unused if not any(name in each.names for each in twice)]:
            yield self._unused(unused)
        yield from self._unwritten(experiment, [name for name in live if name not in without])

    def _cut(self, names: list[str], verdict: Verdict, why: str) -> Finding:
        site = _module(names[-1])
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=verdict,
            message=f"no gradient reaches `{names[-1]}`{_more(names)}, and {why}: the way back "
            f"is cut after `{site}`.",
            fix="Look behind it for `detach`, `no_grad`, `.data`, `argmax`, `.item()` or "
            "`torch.tensor(...)`; freeze what is not to train by `requires_grad_(False)`.",
            site=site,
            phase="backward",
            evidence=(
                Evidence("parameters that the loss depends on, without gradient", len(names)),
            ),
        )

    def _unused(self, names: list[str]) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.NOTE,
            message=f"the loss does not depend on `{names[0]}`{_more(names)}: it is not used.",
            fix="Nothing, if that is meant; else look who should read its module's output.",
            site=_module(names[0]),
            phase="backward",
            evidence=(Evidence("parameters that the loss does not depend on", len(names)),),
        )

    def _dropped(self, lost: Dropped) -> Finding:
        unread = lost.unread
        name, site, names = unread.name, lost.site, list(lost.names)
        if name is None:
            how = "not kept"
        elif unread.by_round:
            how = f"kept as `{name}`, which every round of the loop sets anew before it is read"
        elif unread.again is not None:
            how = f"kept as `{name}`, which line {unread.again} sets anew before it is read"
        else:
            how = f"kept as `{name}`, which nobody reads"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"what `{site}` gives is {how}: the loss does not depend "
            f"on `{names[0]}`{_more(names)}, which the optimizer is to train.",
            fix=f"Hand on what `{site}` gives, or leave `{site}` out."
            if name is None
            else f"Read `{name}` there, or leave `{site}` out.",
            site=site,
            phase="forward",
            source=lost.source,
            evidence=(Evidence("parameters that the loss does not depend on", len(names)),),
        )

    def _asked_twice(self, found: AskedTwice) -> Finding:
        idle, used, keys = found.idle, found.used, found.keys
        if len(keys) == 2:
            told = f"`{keys[1]}` is asked of what `{used}` gives, as `{keys[0]}` is"
        else:
            told = f"what `{used}` gives is asked for the same twice"
        how = "which gives the same shape" if found.called else "which is its like and never called"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"{told}, and nothing is asked of `{idle}`, {how}: the loss does not depend "
            f"on `{found.names[0]}`{_more(list(found.names))}, which the optimizer is to train.",
            fix=f"Ask it of what `{idle}` gives there, or leave `{idle}` out.",
            site=idle,
            phase="forward",
            source=found.source,
            evidence=(Evidence("calls of a loss on the same scores", 2, 1),),
        )

    def _unwritten(self, experiment: Experiment, names: list[str]) -> Iterator[Finding]:
        stepped = experiment.stepped
        sizes = {name: _size(stepped.grads[name]) for name in names}
        least = self.rounding * max(sizes.values(), default=0.0)
        still = [
            name
            for name in names
            if name not in stepped.moved and stepped.rates.get(name) and sizes[name] > least
        ]
        live = dict(experiment.subject.model.named_parameters())
        still = [name for name in still if not _warms_up(stepped, name, live[name])]
        if not still:
            return
        grad = stepped.grads[still[0]]
        assert grad is not None
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{still[0]}`{_more(still)} has a gradient and a learning rate of "
            f"{stepped.rates[still[0]]:.3g}, and one step does not change it by a bit.",
            fix="Look for a step that is too small for its number format, a parameter that is "
            "written over after the step, or an optimizer that skipped it.",
            site=_module(still[0]),
            phase="update",
            evidence=(Evidence("largest gradient", float(grad.abs().max())),),
        )


def _never_reached(experiment: Experiment, names: list[str]) -> list[str]:
    """Those that no gradient reaches in further steps either: a layer may be left out by chance."""
    if not names:
        return []
    try:
        reached = reached_in(experiment.subject, experiment.step_batch, STEPS)
    except ExperimentError:
        return names
    return [name for name in names if name not in reached]


def _warms_up(stepped: Stepped, name: str, parameter: Tensor) -> bool:
    """Whether the rate is but a schedule's share of one that the number format has room for."""
    whole = stepped.whole.get(name, 0.0)
    if stepped.rates[name] >= whole or not parameter.is_floating_point():
        return False
    least = float(parameter.detach().abs().min())
    return whole > torch.finfo(parameter.dtype).eps * least


def _size(grad: Tensor | None) -> float:
    """The largest magnitude; 0 of a gradient that is not there, sparse or not finite."""
    if grad is None or grad.layout is not torch.strided or grad.numel() == 0:
        return 0.0
    largest = float(grad.abs().max())
    return largest if math.isfinite(largest) else 0.0


def _module(name: str) -> str:
    return name.rpartition(".")[0] or name


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
