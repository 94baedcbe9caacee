"""How much of which samples a mixed row holds, and by how much of whose labels it is scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.batch import take
from probes.bus import Bus, Kind, See
from probes.experiment import Experiment, attempted, copied, with_leaf
from probes.raised import source_here
from probes.replay import Snapshot, replay
from probes.seeding import seed_everything
from probes.stepping.aim import updates
from probes.subject import Batch

LEAST = 2  # rows of which it is so
HELD = 1e-3  # of a row: less is not held
NEAR = 0.02  # weights that differ by less are one
CLEAR = 0.1  # weights of one row that differ by less may be exchanged unseen
ROUNDING = 1e-3  # of the largest change: what is no mixture to the bit of float32
WHOLE = 0.999  # of the numbers of a row that is pasted together of others

How = Literal["exchanged", "parted"]
Row = dict[int, float]


@dataclass(frozen=True, slots=True)
class Mixing:
    """A row that holds two samples and is scored against two labels, with other weights or samples.

    inputs, labels: sample to weight. rows: those of which it is so. pasted: a row's numbers
    are of the one or the other, and weights are shares of them. mixed, scored: lines.
    """

    how: How
    key: str
    label: str
    site: str
    row: int
    inputs: Row
    labels: Row
    rows: tuple[int, ...]
    pasted: bool
    mixed: str | None = None
    scored: str | None = None


@dataclass(slots=True)
class _Watch:
    """Keeps inputs of modules with so many numbers by row, and the gradients of what they give."""

    n: int
    width: int
    inputs: list[tuple[int, Tensor]] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    grads: dict[int, list[Tensor]] = field(default_factory=dict)
    sees: Mapping[Kind, See] = field(init=False)

    def __post_init__(self) -> None:
        given, gave, grad = self.see_input, self.see_output, self.see_grad
        self.sees = {Kind.INPUT: given, Kind.OUTPUT: gave, Kind.OUTPUT_GRAD: grad}

    def see_input(self, number: int, tensor: Tensor) -> None:
        if self._is_by_row(tensor) and tensor.numel() == self.n * self.width:
            self.inputs.append((number, tensor.detach().clone()))

    def see_output(self, number: int, tensor: Tensor) -> None:
        if self._is_by_row(tensor):
            self.outputs.append(number)

    def see_grad(self, number: int, tensor: Tensor) -> None:
        if self._is_by_row(tensor):
            self.grads.setdefault(number, []).append(tensor.detach().clone())

    def _is_by_row(self, tensor: Tensor) -> bool:
        return tensor.is_floating_point() and tensor.ndim > 0 and len(tensor) == self.n


@dataclass(frozen=True, slots=True)
class _Pass:
    """inputs: site and (sample, number), in the order of the calls. grad: of what is scored."""

    inputs: tuple[tuple[str, Tensor], ...]
    grad: Tensor | None


class _Lines(TorchFunctionMode):
    """While it is entered, notes where a tensor first comes about, and where losses are called."""

    def __init__(self, wanted: Tensor) -> None:
        super().__init__()
        self.made: str | None = None
        self.scored: str | None = None
        self._wanted = wanted

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function has run as it would have."""
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        told = args[0] if name == "__setitem__" else out
        if self.made is None and isinstance(told, Tensor) and told.numel() == self._wanted.numel():
            same = told.detach().reshape(self._wanted.shape).to(self._wanted)
            if torch.equal(same, self._wanted):
                self.made = source_here()
        if self.scored is None and ("cross_entropy" in name or name.endswith("_loss")):
            self.scored = source_here()
        return out


def mixing(experiment: Experiment) -> Mixing | None:
    """The first draw, or batch, whose rows are mixed clearly, where labels are mixed otherwise."""
    n, shapes = experiment.size, {k: t.shape for k, t in experiment.tensors.items()}
    tries = [(experiment.batch, 0), (experiment.batch, 1)]
    for batch in islice(experiment.subject.batches, 1, 2):
        fewer = take(batch, range(n), experiment.layout)
        other = experiment.of_batch(fewer)
        tries += [(fewer, 0)] if {k: t.shape for k, t in other.tensors.items()} == shapes else []
    for batch, seed in tries:
        judged, found = _judged(experiment, batch, seed)
        if judged:
            return found
    return None


def _judged(experiment: Experiment, batch: Batch, seed: int) -> tuple[bool, Mixing | None]:
    """Whether rows were mixed clearly, and what is wrong with that."""
    own = experiment if batch is experiment.batch else experiment.of_batch(batch)
    for key in _inputs(experiment, own.tensors):
        for label, one, two in _labels(experiment, own.tensors):
            alike = with_leaf(batch, label, one.expand_as(own.tensors[label]).clone())
            asked = _Asked(experiment, alike, seed, key, own.tensors[key][0].numel())
            weights = asked.weights(own.tensors[key])
            if weights is None:
                break  # of no label
            site, held, pasted = weights
            scored = asked.scored(label, two)
            if scored is None:
                continue
            rows = list(zip(_rows(held), _rows(scored), strict=True))
            judged, how, at = _compared(rows)
            if how is None:
                if judged:
                    return True, None
                continue
            lines = asked.lines()
            words = how, key, label, site, at[0], *rows[at[0]], tuple(at), pasted
            return True, Mixing(*words, *lines)
    return False, None


def _inputs(experiment: Experiment, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    for key, tensor in tensors.items():
        rows = tensor.ndim > 1 and len(tensor) == experiment.size
        if rows and tensor.is_floating_point() and key not in experiment.targets:
            yield key


def _labels(
    experiment: Experiment, tensors: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Keys of labels, those of classes first, with two rows that differ."""
    known = {key: tensors[key] for key in experiment.targets if key in tensors}
    rows = {key: t for key, t in known.items() if t.ndim > 0 and len(t) == experiment.size}
    for key in sorted(rows, key=lambda key: rows[key].is_floating_point()):
        values = rows[key]
        other = next((row for row in values if not torch.equal(row, values[0])), None)
        if other is not None:
            yield key, values[0], other


class _Asked:
    """Passes of a training step, from one random state, with a batch whose labels are all one."""

    def __init__(
        self, experiment: Experiment, batch: Batch, seed: int, key: str, width: int
    ) -> None:
        self.experiment, self.batch, self.seed = experiment, batch, seed
        self.key, self._width = key, width
        self._at, self._base = 0, self.run(batch)

    def run(
        self, batch: Batch, back: bool = False, under: Sequence[AbstractContextManager[Any]] = ()
    ) -> _Pass:
        """What modules were given; with back, the gradient of what is scored."""
        subject, model = self.experiment.subject, self.experiment.subject.model
        watch = _Watch(self.experiment.size, self._width)

        def step() -> Tensor:
            seed_everything(self.seed)
            with attempted("`Subject.loss`, with other samples,"), torch.set_grad_enabled(back):
                loss = subject.loss(model, copied(batch))
            if back and loss.requires_grad:
                trained = [each for each in model.parameters() if each.requires_grad]
                with attempted("the backward pass of an experiment"):
                    torch.autograd.grad(loss, trained, allow_unused=True)
            return loss.detach()

        with ExitStack() as stack:
            bus = stack.enter_context(Bus(model, [watch], whole=True))
            for each in under:
                stack.enter_context(each)
            if subject.train_step is None:
                replay(step, model, Snapshot.take(model, parameters=True))
            else:
                updates(subject, batch, self.seed)
        names = [site.name for site in bus.sites]
        grads = {names[number]: each for number, each in watch.grads.items()}
        last = next((names[i] for i in watch.outputs[::-1] if names[i] in grads), None)
        scored = grads[last] if last is not None else []
        inputs = tuple((names[i], _by_sample(each)) for i, each in watch.inputs)
        return _Pass(inputs, _by_sample(scored[0]) if len(scored) == 1 else None)

    def weights(self, values: Tensor) -> tuple[str, Tensor, bool] | None:
        """Of the first input that mixes samples: its site, (row, sample) weights, if pasted."""
        chance = torch.Generator().manual_seed(0)
        noise = (
            torch.randn(values.shape, generator=chance, device="cpu").to(values)
            * values.std()
            * 0.1
        )
        moved = (values + noise).detach()
        after = self.run(with_leaf(self.batch, self.key, moved))
        if len(after.inputs) != len(self._base.inputs):
            return None
        change = (moved.double() - values.double()).flatten(1)
        for at, ((site, one), (_, two)) in enumerate(
            zip(self._base.inputs, after.inputs, strict=True)
        ):
            found = _weights(two - one, change)
            if found is not None and any(len(row) == 2 for row in _rows(found[0])):
                self._at = at
                return site, *found
        return None

    def scored(self, label: str, other: Tensor) -> Tensor | None:
        """(row, sample) how much of a row's loss is of whose label, by its gradient."""
        base, found = self.run(self.batch, back=True), list[Tensor]()
        if base.grad is None:
            return None
        alike = self.experiment.of_batch(self.batch).tensors[label]
        for j in range(self.experiment.size):
            changed = alike.clone()
            changed[j] = other
            after = self.run(with_leaf(self.batch, label, changed), back=True)
            if after.grad is None or after.grad.shape != base.grad.shape:
                return None
            if not _same_inputs(after, base, self._at):
                return None  # this is no label, or what is mixed hangs on it
            found.append((after.grad - base.grad).norm(dim=1))
        each = torch.stack(found, 1)
        total = each.sum(1, keepdim=True)
        sure = bool(total.isfinite().all()) and bool((total > 0).all())
        return each / total if sure else None

    def lines(self) -> tuple[str | None, str | None]:
        """Where the input is mixed, and where it is scored."""
        lines = _Lines(self._base.inputs[self._at][1].float())
        self.run(self.batch, under=[lines])
        return lines.made, lines.scored


def _same_inputs(one: _Pass, two: _Pass, at: int) -> bool:
    same = len(one.inputs) == len(two.inputs)
    return same and torch.equal(one.inputs[at][1], two.inputs[at][1])


def _weights(change: Tensor, of: Tensor) -> tuple[Tensor, bool] | None:
    """(row, sample) by which each row's change is made up of the samples', and if it is pasted."""
    if change.shape != of.shape or change.shape[1] <= 2 * len(of) or not bool(change.any()):
        return None
    held = torch.linalg.lstsq(of.T, change.T).solution.T
    limit = ROUNDING * change.abs().max()
    if bool(((held @ of - change).abs() <= limit).all()):
        return held, False
    apart = [(row - of).abs().min(0) for row in change]
    whole = all(float((each.values <= limit).double().mean()) >= WHOLE for each in apart)
    counts = [torch.bincount(each.indices, minlength=len(of)) for each in apart]
    return (torch.stack(counts).double() / of.shape[1], True) if whole else None


def _rows(weights: Tensor) -> list[Row]:
    return [{i: w for i, w in enumerate(row) if abs(w) > HELD} for row in weights.tolist()]


def _compared(rows: Sequence[tuple[Row, Row]]) -> tuple[bool, How | None, list[int]]:
    """Whether any row tells, whether all that do tell of one fault, and which they are."""
    found: dict[str, list[int]] = {}
    for at, (held, scored) in enumerate(rows):
        told = _told(held, scored)
        if told is not None:
            found.setdefault(told, []).append(at)
    if len(found) == 1 and len(found.get("exchanged", [])) >= LEAST:
        return True, "exchanged", found["exchanged"]
    if len(found.get("parted", [])) >= max(LEAST, len(rows) // 2):
        return True, "parted", found["parted"]  # of two orders that are drawn some agree
    return bool(found), None, []


def _told(held: Row, scored: Row) -> str | None:
    """What a row of two samples says; None where their weights are too much alike."""
    if len(held) != 2 or abs(sum(held.values()) - 1) > NEAR or min(held.values()) < 0:
        return None
    if len(scored) != 2:
        return "other"
    if held.keys() == scored.keys():
        one, two = held
        if abs(held[one] - held[two]) < CLEAR:
            return None
        return "exchanged" if abs(held[one] - scored[two]) <= NEAR else "other"
    both = held.keys() & scored.keys()
    if len(both) != 1:
        return "other"
    shared = both.pop()
    return "parted" if abs(held[shared] - scored[shared]) <= NEAR else "other"


def _by_sample(value: Tensor) -> Tensor:
    """(sample, number) in float64; of one number a sample too."""
    return value.reshape(len(value), -1).double()
