"""What a step teaches one module of the data, and of what another part of the model makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from probes.finding import ExperimentError
from probes.stepping.one_step import step_under
from probes.stepping.roots import noted_starts
from probes.subject import Batch, Subject

FAR = 10.0  # times the largest score: where scores are put, to see where they are pushed from there
INSIDE = (0.02, 0.98)  # the same for scores that are probabilities


@dataclass(frozen=True, slots=True)
class Judged:
    """A module that scores the data, and what a maker makes, in one backward pass.

    up: whether both scores are to become larger. data, made: the means of their gradients.
    """

    module: str
    maker: str
    up: bool
    data: float
    made: float


def pushed_one_way(subject: Subject, batch: Batch) -> Judged | None:
    """The first module whose scores of both are pushed the same way, wherever they are.

    What is made is cut off from its maker, which does not learn in that pass. Raises
    ExperimentError where the step raises.
    """
    seen = _seen(subject, batch)
    for pair in sorted(seen.pairs(), key=lambda each: each.data.module.count(".")):
        up, module = pair.way, pair.data.module
        if up is None:
            continue
        scores = torch.cat([pair.data.score, pair.made.score])
        inside = bool(((scores >= 0) & (scores <= 1)).all())
        far = FAR * (1 + float(scores.abs().max()))
        try:
            there = [
                _seen(subject, batch, module, to) for to in (INSIDE if inside else (-far, far))
            ]
        except ExperimentError:
            continue
        ways = {each.way for one in there for each in one.pairs() if each.data.module == module}
        if ways <= {up, None} and up in ways and not any(one.mixed(module) for one in there):
            means = (float(each.grad.mean()) for each in (pair.data, pair.made))
            return Judged(module, pair.maker, up, *means)
    return None


@dataclass(slots=True, eq=False)
class _Call:
    """One call of a module that gives one number a sample; score, grad: (sample,).

    given: where its input lies. cut: whether its input passes no gradient on. part: of which
    backward pass it is one, once that has run.
    """

    module: str
    given: int
    cut: bool
    output: Tensor
    score: Tensor
    grad: Tensor = field(default_factory=lambda: torch.zeros(0, device="cpu"))
    part: int = -1


@dataclass(frozen=True, slots=True)
class _Pair:
    """The calls on the data and on what is made, and who made it."""

    data: _Call
    made: _Call
    maker: str

    @property
    def way(self) -> bool | None:
        """Whether both are pushed up; None where they are not pushed one way."""
        grads = torch.cat([self.data.grad, self.made.grad])
        if not all(bool((each.grad != 0).any()) for each in (self.data, self.made)):
            return None
        if bool((grads <= 0).all()) or bool((grads >= 0).all()):
            return bool((grads <= 0).all())
        return None


@dataclass(slots=True)
class _Seen:
    """The calls of a step, and which module made what lies where."""

    calls: list[_Call] = field(default_factory=list)
    makers: dict[int, str] = field(default_factory=dict)
    kept: list[Tensor] = field(default_factory=list)
    passes: int = 0

    def pairs(self) -> Iterator[_Pair]:
        """Those of each backward pass."""
        done = [each for each in self.calls if each.part >= 0 and each.cut]
        for one in done:
            for two in done:
                maker = self.makers.get(two.given)
                if (
                    one.module == two.module
                    and one.part == two.part
                    and one.given not in self.makers
                    and maker is not None
                    and not _is_within(maker, one.module)
                ):
                    yield _Pair(one, two, maker)

    def mixed(self, module: str) -> bool:
        """Whether a call of the module is pushed some samples up, and others down."""
        grads = [call.grad for call in self.calls if call.module == module and call.part >= 0]
        return any(bool((g > 0).any()) and bool((g < 0).any()) for g in grads)

    def came(self, module: str, args: tuple[Any, ...], output: Any, to: float | None) -> Any:
        """A module was called; returns what it is to give."""
        if not isinstance(output, Tensor):
            return output
        self.kept.append(output)
        self.makers[_place(output)] = module
        given = next((each for each in args if isinstance(each, Tensor)), None)
        if given is None or not given.ndim or output.numel() != len(given) or len(given) < 2:
            return output
        if not output.requires_grad:
            return output
        if to is not None:
            output = output + (to - output).detach()
        output.retain_grad()
        score = output.detach().flatten().clone()
        self.calls.append(_Call(module, _place(given), not given.requires_grad, output, score))
        self.kept.append(given)
        return output

    def ended(self) -> None:
        """A backward pass has run."""
        for call in self.calls:
            if call.part < 0 and call.output.grad is not None:
                call.grad, call.part = call.output.grad.detach().flatten().clone(), self.passes
        self.passes += 1


def _seen(
    subject: Subject, batch: Batch, module: str | None = None, to: float | None = None
) -> _Seen:
    """A step was taken and undone. module: whose scores are put at `to`, with their gradient."""
    found = _Seen()
    with noted_starts(lambda *_: None, found.ended):
        step_under(subject, batch, _calls_of(subject.model, found, module, to))
    return found


@contextmanager
def _calls_of(
    model: nn.Module, seen: _Seen, module: str | None, to: float | None
) -> Iterator[None]:
    """Inside, every call of a module in the model is seen."""

    def seeing(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def seen_forward(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            return seen.came(name, args, output, to if name == module else None)

        return seen_forward

    parts = [(n, m) for n, m in model.named_modules() if n and "forward" not in vars(m)]
    plain = [(n, m) for n, m in parts if not isinstance(m, torch.jit.ScriptModule)]
    for name, part in plain:
        vars(part)["forward"] = seeing(name, part.forward)
    try:
        yield
    finally:
        for _, part in plain:
            vars(part).pop("forward", None)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else id(tensor)


def _is_within(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")
