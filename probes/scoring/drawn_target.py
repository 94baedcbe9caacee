"""Targets that are drawn within a step, though another draw is what the model is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.bus import Bus, Kind, See
from probes.experiment import Experiment, attempted, copied
from probes.raised import source_here
from probes.replay import Snapshot, replay
from probes.seeding import seed_everything
from probes.stepping.aim import updates

DRAWS = ("randn", "randn_like", "normal", "normal_", "rand", "rand_like", "uniform_")
LOSSES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
LESS = ("sub", "__sub__", "subtract", "rsub", "__rsub__")
ON = ("mul", "__mul__", "__rmul__", "div", "__truediv__", "flatten", "reshape", "view")
SIZES = ("pow", "__pow__", "square", "abs", "absolute", "__abs__", "norm", "vector_norm")
FEWEST = 8  # numbers beside those that a draw may be scaled by
MOST = 24  # draws of a step
ROUNDING = 1e-6  # of the target's energy
SHARE = 0.5  # of the loss that goes with it; a term beside others may pull towards noise


@dataclass(frozen=True, slots=True)
class DrawnTarget:
    """The target is what is drawn at `asked`, and the model is given what is drawn at `given`.

    scored: the line at which the loss asks for it. count: its numbers. spread: their deviation.
    """

    op: str
    asked: str | None
    given: str | None
    scored: str | None
    count: int
    spread: float


@dataclass(frozen=True, slots=True)
class _Draw:
    op: str
    line: str | None
    value: Tensor


@dataclass(frozen=True, slots=True)
class _Scored:
    """draw: the target is that one. given: what the prediction is. before: inputs until then.

    call: which of the calls that hold a draw against a prediction.
    """

    call: int
    line: str | None
    draw: int
    given: int
    before: int


@dataclass(slots=True)
class _Inputs:
    """Keeps what tells the inputs of all modules apart, to the bit, once something is drawn."""

    found: list[int] = field(default_factory=list)
    awake: bool = False

    @property
    def sees(self) -> Mapping[Kind, See]:
        return {Kind.INPUT: self.see}

    def see(self, number: int, tensor: Tensor) -> None:
        if self.awake:
            self.found.append(hash((number, _bits(tensor))))


class _Scores(TorchFunctionMode):
    """While it is entered, notes draws, and what is scored against one.

    other: the number of the draw whose rows are each given to the next. answered: the number of the
    call in which the prediction is what is asked for.
    """

    def __init__(self, inputs: _Inputs, other: int | None, answered: int | None) -> None:
        super().__init__()
        self.draws: list[_Draw] = []
        self.scored: list[_Scored] = []
        self._inputs, self._other, self._answered = inputs, other, answered
        self._calls, self._differences = 0, dict[int, tuple[Tensor, _Scored]]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function has run as it would have, but for the one draw and the one call."""
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name in LOSSES or name in LESS:
            return self._compared(func, name, args, kwargs)
        out = func(*args, **kwargs)
        if name in DRAWS and isinstance(out, Tensor):
            self._drawn(name, out)
        elif name in ON or name in SIZES:
            known = [self._differences[id(a)][1] for a in args if id(a) in self._differences]
            if known and (name in SIZES or len(known) > 1):
                self.scored.append(known[0])
            elif known:
                self._differences[id(out)] = out, known[0]
        return out

    def _compared(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        pair = [*args, *(kwargs[key] for key in ("input", "target", "other") if key in kwargs)]
        found = self._scores(pair[:2])
        if found is None:
            return func(*args, **kwargs)
        scored, given, asked = found
        if scored.call == self._answered:
            args = [given.detach() if each is asked else each for each in args]
            kwargs = {k: given.detach() if each is asked else each for k, each in kwargs.items()}
        out = func(*args, **kwargs)
        if name in LOSSES:
            self.scored.append(scored)
        else:
            self._differences[id(out)] = out, scored
        return out

    def _drawn(self, name: str, out: Tensor) -> None:
        if not out.is_floating_point() or out.numel() < FEWEST or len(self.draws) >= MOST:
            return
        if self._other == len(self.draws):
            with torch.no_grad():
                out.copy_(out.roll(1, 0) if len(out) > 1 else out.flatten().roll(1).view_as(out))
        self.draws.append(_Draw(name, source_here(), out.detach().clone()))
        self._inputs.awake = True

    def _scores(self, pair: Sequence[Any]) -> tuple[_Scored, Tensor, Tensor] | None:
        """With prediction and target, where the one learns and the other is a draw of its shape."""
        if len(pair) < 2 or not all(isinstance(each, Tensor) for each in pair):
            return None
        given, asked = sorted(pair, key=lambda each: not each.requires_grad)
        if asked.requires_grad or not given.requires_grad or given.shape != asked.shape:
            return None
        target = asked.detach()
        drawn = (i for i, each in enumerate(self.draws) if _is_scaled(target, each.value))
        at = next(drawn, None)
        if at is None:
            return None
        self._calls += 1
        words = self._calls - 1, source_here(), at, hash(_bits(given)), len(self._inputs.found)
        return _Scored(*words), given, asked


@dataclass(frozen=True, slots=True)
class _Pass:
    draws: Sequence[_Draw]
    scored: Sequence[_Scored]
    inputs: Sequence[int]
    losses: tuple[float, ...]

    def read_by(self, scored: _Scored) -> tuple[Sequence[int], int]:
        """What modules read until then, and the prediction that came of it."""
        return self.inputs[: scored.before], scored.given


def drawn_targets(experiment: Experiment) -> Iterator[DrawnTarget]:
    """At most one: a draw that is asked for and that nothing reads, beside one that is read.

    From one random state a step runs with other values of the first draw: nothing that a module
    reads and no prediction moves, to the bit, and the loss does. With other values of the second,
    of the same shape, what is read moves. With the prediction for a target most of the loss is
    gone. Raises ExperimentError.
    """
    base = _ran(experiment, None)
    for at, scored in enumerate(base.scored):
        asked = base.draws[scored.draw]
        others = [
            i
            for i, each in enumerate(base.draws)
            if i != scored.draw
            and each.value.shape == asked.value.shape
            and not torch.equal(each.value, asked.value)
        ]
        if not others or _moves(base, _ran(experiment, scored.draw), at, loss=True) is not False:
            continue
        answered = _ran(experiment, None, scored.call)
        if not sum(answered.losses) <= (1 - SHARE) * sum(base.losses):
            continue
        for i in others:
            if _moves(base, _ran(experiment, i), at):
                lines = asked.line, base.draws[i].line, scored.line
                spread = float(asked.value.double().std())
                yield DrawnTarget(asked.op, *lines, asked.value.numel(), spread)
                return


def _moves(base: _Pass, other: _Pass, at: int, loss: bool = False) -> bool | None:
    """Whether what was read for this score is another; None where it is not to be compared.

    loss: nor is it where the loss has stayed.
    """
    if len(other.scored) <= at or len(other.draws) != len(base.draws):
        return None
    one, two = base.scored[at], other.scored[at]
    if one.draw != two.draw or (loss and base.losses == other.losses):
        return None
    return base.read_by(one) != other.read_by(two)


def _ran(experiment: Experiment, other: int | None, answered: int | None = None) -> _Pass:
    """A training step from one random state, with other values of a draw or one right answer."""
    subject, model = experiment.subject, experiment.subject.model
    inputs, whole = _Inputs(), experiment.step_batch  # which runs steps where it is not yet known
    mode = _Scores(inputs, other, answered)

    def step() -> Tensor:
        seed_everything(0)
        with attempted("`Subject.loss`, with other draws,"), torch.enable_grad():
            loss = subject.loss(model, copied(experiment.batch))
        return loss.detach()

    with ExitStack() as stack:
        stack.enter_context(Bus(model, [inputs], whole=True))
        stack.enter_context(mode)
        if subject.train_step is None:
            ran = replay(step, model, Snapshot.take(model, parameters=True))
            losses: tuple[float, ...] = (float(ran.loss),)
        else:
            steps = updates(subject, whole, 0)
            losses = tuple(loss for each in steps for loss in each.losses)
    return _Pass(mode.draws, mode.scored, inputs.found, losses)


def _is_scaled(target: Tensor, draw: Tensor) -> bool:
    """Whether it is the draw and nothing else, times one number, or one for each row."""
    if target.numel() != draw.numel() or not target.is_floating_point():
        return False
    one, two = target.double().flatten(), draw.double().flatten()
    if _is_along(one[None], two[None]):
        return True
    rows = len(target)
    if one.numel() - rows < FEWEST:
        return False
    return _is_along(one.view(rows, -1), two.view(rows, -1))


def _is_along(target: Tensor, draw: Tensor) -> bool:
    by = (target * draw).sum(1, keepdim=True) / draw.square().sum(1, keepdim=True)
    rest = (target - by * draw).square().sum()
    return bool((by != 0).all()) and bool(rest <= ROUNDING * target.square().sum())


def _bits(tensor: Tensor) -> bytes:
    if tensor.layout is not torch.strided or tensor.is_nested:
        return b""
    held = tensor.detach().cpu().contiguous()
    return bytes(held.flatten().view(torch.uint8).numpy().tobytes())
