"""STA006: a layer or direction of a recurrence is not read where it has read its input."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.states.recurrence import Recurrent

PLACE = re.compile(r"_l(\d+)(_reverse)?$")


@dataclass(frozen=True)
class _Part:
    """A layer and direction of a recurrent module, and the sizes of its weights' gradients.

    reads: of the input's weight; recurs: of the state's. None where it gets none.
    """

    layer: int
    reverse: bool
    reads: float | None
    recurs: float | None


@dataclass(frozen=True, slots=True)
class UnreadState:
    """A layer or direction of an `nn.LSTM`, `nn.GRU` or `nn.RNN` learns nothing of its sequence.

    In one training step, over sequences of two steps or more, the recurrent weights of a layer
    and direction get a gradient of exactly zero: where its input's weights get one, it is only
    read where it has read a single token, as the backward direction at the last place of the
    output; where they get none, it is not read at all, as one of two directions by `h_n[-1]`.
    What gets no gradient because it is frozen, or since the whole module gets none, is not meant.

    Sick: `head(output[:, -1])` of a bidirectional LSTM.
    Healthy: `head(torch.cat([h_n[-2], h_n[-1]], -1))`.
    """

    code: ClassVar[str] = "STA006"
    rule: ClassVar[str] = "state-read-at-wrong-end"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A recurrent layer over more than one step."""
        return None if any(map(_is_long, experiment.recurrent)) else "no recurrent layer is called"

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a module."""
        grads = experiment.stepped.grads
        names = {id(m): name for name, m in experiment.subject.model.named_modules()}
        modules = {name: names.get(id(m)) for name, m in _called(experiment)}
        for each in filter(_is_long, experiment.recurrent):
            own = modules.get(each.site)
            parts = list(_parts(each.module, own, grads)) if own is not None else []
            alive = [part for part in parts if part.recurs]
            for part in parts:
                if part.recurs == 0 and part.reads:
                    yield self._one_step(each, part)
                    break
                if alive and part.recurs == 0 and part.reads == 0:
                    yield self._unread(each, part)
                    break

    def _one_step(self, each: Recurrent, part: _Part) -> Finding:
        which = _which(each, part)
        end = "first" if part.reverse else "last"
        return self._said(
            each,
            part,
            f"{which} is only read where it has read a single step: its recurrent weights get a "
            "gradient of exactly zero, and its input's weights do not.",
            f"Read it at its true end, which is the {end} step, as by `h_n`; `output[:, -1]` holds "
            "what the backward direction began with."
            if part.reverse
            else "Read it at its true end, as by `h_n`, or carry its state from call to call.",
        )

    def _unread(self, each: Recurrent, part: _Part) -> Finding:
        return self._said(
            each,
            part,
            f"{_which(each, part)} is not read by anything: its weights get a gradient of exactly "
            "zero, and those of the rest of the module do not.",
            "Take all that is meant out of `h_n`, (layers * directions, sample, feature): "
            "`h_n[-1]` is the last layer's backward direction alone, `h_n[0]` the first layer's "
            "forward one.",
        )

    def _said(self, each: Recurrent, part: _Part, message: str, fix: str) -> Finding:
        where: dict[str, int | str] = {"layer": part.layer}
        if getattr(each.module, "bidirectional", False):
            where["direction"] = "reverse" if part.reverse else "forward"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=message,
            fix=fix,
            site=each.site,
            phase="backward",
            source=each.calls[0].source,
            where=where,
            evidence=(
                Evidence("largest gradient of its input's weights", part.reads),
                Evidence("largest gradient of its recurrent weights", part.recurs),
            ),
        )


def _called(experiment: Experiment) -> Iterator[tuple[str, nn.Module]]:
    """The recurrent modules of the subject's own model by site."""
    from probes.modules import every_module

    return every_module(experiment.subject.model)


def _which(each: Recurrent, part: _Part) -> str:
    both = getattr(each.module, "bidirectional", False)
    way = ("the backward direction of " if part.reverse else "the forward direction of ") * both
    return f"{way}layer {part.layer} of `{each.site}`"


def _parts(module: nn.Module, own: str, grads: Mapping[str, Tensor | None]) -> Iterator[_Part]:
    for name, _ in module.named_parameters(recurse=False):
        place = PLACE.search(name)
        if place is not None and name.startswith("weight_hh"):
            reads = grads.get(f"{own}.{name.replace('_hh', '_ih')}".lstrip("."))
            recurs = grads.get(f"{own}.{name}".lstrip("."))
            yield _Part(int(place[1]), place[2] is not None, _size(reads), _size(recurs))


def _size(grad: Tensor | None) -> float | None:
    return None if grad is None else float(grad.to_dense().abs().max())


def _is_long(each: Recurrent) -> bool:
    """Whether it is a layer, and every call is of two steps or more, or packed."""
    return isinstance(each.module, nn.RNNBase) and all(
        each.length(call) is None or (each.length(call) or 0) > 1 for call in each.calls
    )
