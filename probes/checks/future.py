"""MSK003: an output reads what comes later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from probes.bus import Kind
from probes.compare import SAME, Comparison
from probes.experiment import Experiment, with_leaf
from probes.finding import Evidence, Finding, Verdict, resting_on
from probes.line import line
from probes.masking.share import comes_of_empty_rows, takes_only_its_share
from probes.modules import every_module
from probes.place import place
from probes.reading.causal import Causal
from probes.scoring.numbers_ahead import numbers_ahead
from probes.scoring.shifted_inside import shifted_inside
from probes.scoring.wanted import causal_or_ahead, looked_at
from probes.scoring.whole_window import Windowed, windowed
from probes.subject import Batch
from probes.vary import vary_later


@dataclass(frozen=True, slots=True)
class Future:
    """The output at a step changes with later inputs, which it must not read.

    It holds for outputs declared by `Reads(rule="causal")`, or `before`; without a declaration,
    for models whose name, or whose modules' names, say that they are causal, and for outputs that
    the loss asks for an id, or for numbers, that stand after their own place, by its gradient, or
    for the id of their own place where the code looks these up one place later, behind a start; of
    those that are not declared, only places that the loss looks at count, since a prefix that is
    not scored may be read both ways. All later entries of the key get other values, from a quarter,
    a half and three quarters of the way on, in evaluation mode; the first site whose earlier places
    move is named. What reaches numbers by way of one vector a sample alone, as in a variational
    model, is left out.
    Later places whose values are zeroed, and which do no more than take their share of an attention
    that throws its mask away, are left to MSK007. Of what is scored against numbers of its own
    input, wherever these begin, a statistic of each sample's whole window is held, by which the
    input is divided or from which it is taken off: an output that then reads none of what it is to
    give, but what is before, reads it by that alone.

    Sick: attention without its triangular mask; `mask=ahead.T`; `series / series.mean(1)`.
    Healthy: `torch.full((t, t), -inf).triu(1)` added to the scores; `series[:, :known].mean(1)`.
    """

    code: ClassVar[str] = "MSK003"
    rule: ClassVar[str] = "reads-the-future"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing; what is causal is looked for at work."""
        if not _causal(experiment) and not windowed(experiment):
            return (
                "no output is declared causal and no name says so: declare it by "
                "`Layout(reads=(Reads('logits', of='ids', rule='causal'),))`"
            )
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding an output."""
        said = set[str]()
        for each in _causal(experiment):
            tensor = experiment.tensors[each.key]
            order = each.order(tuple(tensor.shape), tensor.device)
            for cut in sorted({order.numel() * share // 4 - 1 for share in (1, 2, 3)} - {-1}):
                found = self._cut(experiment, each, order, cut)
                if any(one.site == each.output for one in found.outputs):
                    source = self._line(experiment, each, order, cut, found)
                    yield replace(self._finding(experiment, each, found, cut), source=source)
                    said.add(each.output)
                    break
        for one in windowed(experiment):
            if one.output not in said:
                yield self._windowed(one)

    def _changed(
        self, experiment: Experiment, each: Causal, order: Tensor, cut: int
    ) -> Batch | None:
        tensor = experiment.tensors[each.key]
        changed = vary_later(tensor, (order > cut).expand(tensor.shape[: each.shared]))
        return None if changed is None else with_leaf(experiment.batch, each.key, changed)

    def _line(
        self, experiment: Experiment, each: Causal, order: Tensor, cut: int, found: Comparison
    ) -> str | None:
        """The user's line at which what is later comes to what is before."""
        batch = self._changed(experiment, each, order, cut)
        if batch is None:
            return None
        return line(
            experiment.subject.model,
            found,
            _Earlier(experiment, each, order <= cut + each.ahead),
            lambda mode: experiment.evaluate(experiment.batch, (mode,)),
            lambda mode: experiment.evaluate(batch, (mode,)),
        )

    def _cut(self, experiment: Experiment, each: Causal, order: Tensor, cut: int) -> Comparison:
        batch = self._changed(experiment, each, order, cut)
        if batch is None:
            return SAME
        look = _Earlier(experiment, each, order <= cut + each.ahead)
        found = experiment.parted(f"{each.key} after {cut}", experiment.evaluate(batch), look)
        if each.ahead:  # the model may well be given them where they stand
            root = next(every_module(experiment.subject.model))[0]
            found = found.only(lambda site: site.module != root or site.kind is not Kind.INPUT)
        if found.outputs and takes_only_its_share(experiment, batch, look):
            return SAME  # MSK007 says which attention throws its mask away
        if found.outputs and comes_of_empty_rows(experiment, batch, look):
            return SAME  # MSK005 says which rows see nothing
        return found

    def _finding(
        self, experiment: Experiment, each: Causal, found: Comparison, cut: int
    ) -> Finding:
        where = place(found, experiment.subject.model)
        worst = next(one for one in found.outputs if one.site == each.output)
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"`{each.output}` reads the future, {where.words}: other `{each.key}` after "
            f"place {cut} change it there and before by {100 * worst.relative:.2g}%.",
            fix="Look there for a causal mask that is missing, transposed or shifted, a "
            "bidirectional layer, a mean or normalisation over all places.",
            site=where.site,
            phase="forward",
            where=dict(worst.where),
            evidence=(
                Evidence(f"largest change of `{each.output}`", worst.largest, worst.limit),
                *_asked(experiment, each),
            ),
        )
        return resting_on(finding, [each.guessed] if each.guessed else [])

    def _windowed(self, each: Windowed) -> Finding:
        known = f"`{each.key}[:, :{each.first}]`" if each.first else "what was seen before"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{each.output}` reads what it is to give, its own label too, by the "
            f"`{each.name}` of `{each.key}` over the whole window, and by nothing else: other "
            f"`{each.key}` from place {each.first} on, where it is scored, change its first place "
            f"by {100 * each.relative:.2g}%.",
            fix=f"Take the `{each.name}` over {known} alone: the rest is not known when the model "
            "is used.",
            site=each.site,
            op=f"aten.{each.name}",
            phase="forward",
            source=each.source,
            where={"time": 0},
            evidence=(
                Evidence(f"largest change of `{each.output}`", each.largest, each.limit),
                Evidence(f"place of `{each.key}` from which on it is scored", each.first),
            ),
        )


def _asked(experiment: Experiment, each: Causal) -> Iterator[Evidence]:
    """How far on the numbers stand that the loss asks for, where that says what may be read."""
    if each in numbers_ahead(experiment):
        yield Evidence(f"places on at which the loss asks for `{each.key}`", 1 - each.ahead)


def _causal(experiment: Experiment) -> list[Causal]:
    return causal_or_ahead(experiment) or shifted_inside(experiment) or numbers_ahead(experiment)


class _Earlier:
    """Looks at visible places up to the cut; at sites, where they have the key's first axes."""

    def __init__(self, experiment: Experiment, each: Causal, early: Tensor) -> None:
        self._experiment = experiment
        self._output = each.output
        shape = tuple(experiment.tensors[each.key].shape)
        self._lead, self._whole = each.lead(shape), shape[: each.shared]
        self._order = early
        self._channels = set(_channels(experiment.subject.model))
        self._scored = None if each.guessed is None else looked_at(experiment, each)

    def __call__(self, site: str, value: Tensor) -> Tensor | None:
        shape = tuple(value.shape)
        if site in self._experiment.outputs and site != self._output:
            return None
        look = self._over(site, shape, self._lead)
        if look is None and site != self._output and self._whole != self._lead:
            look = self._over(site, shape, self._whole)  # before the last place was cut off
        if look is None:
            return None
        if site == self._output and self._scored is not None:
            look = look & self._scored
        look = look.reshape([*look.shape, *[1] * (len(shape) - look.ndim)])
        for mask in self._experiment.masks:
            seen = mask.over(shape, self._experiment.layout.axes.get(site))
            look = look if seen is None else look & seen
        return look & torch.ones((), dtype=torch.bool, device=value.device)

    def _over(self, site: str, shape: tuple[int, ...], lead: tuple[int, ...]) -> Tensor | None:
        """Early places of a value whose first axes are these; None where they are not."""
        early = self._order[..., : lead[-1]].expand(lead)
        if site != self._output and shape[:1] == lead[:1] and len(shape) > len(lead):
            return self._by_any_axis(shape, early)
        if shape[: len(lead)] == lead:
            return early
        if shape[:1] == (prod(lead),):
            return early.flatten()
        if shape[: len(lead)] == (prod(lead[:-1]), lead[-1]):
            return early.flatten(0, -2)
        return None

    def _by_any_axis(self, shape: tuple[int, ...], early: Tensor) -> Tensor | None:
        """Early along every axis that may be that of the places; None where that is not known.

        A convolution's channels stand before the places, and may be as many.
        """
        places = tuple(early.shape[1:])
        starts = range(1, len(shape) - len(places) + 1)
        found = [i for i in starts if shape[i : i + len(places)] == places]
        if not found or (found == [1] and places[0] in self._channels):
            return None
        look = torch.ones((), dtype=torch.bool, device=early.device)
        for i in found:
            after = [1] * (len(shape) - len(places) - i)
            look = look & early.reshape(len(early), *[1] * (i - 1), *places, *after)
        return look


def _channels(model: nn.Module) -> Iterator[int]:
    """How many channels convolutions take and give."""
    for module in model.modules():
        if isinstance(module, _ConvNd):
            yield from (module.in_channels, module.out_channels)
