"""What a decision of a model rests on: integrated gradients, by captum, over its inputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from probes.batch import leaves, map_leaves
from probes.finding import ExperimentError
from probes.lookups import Lookups
from probes.replay import Snapshot, replay
from probes.subject import Batch

STEPS = 24  # of the integral
IDS = (torch.int64, torch.int32)
BASELINE = "every vector zero"
MODULES = 40  # whose conductance is told
LOOSE = 0.05  # of the score's rise: beyond such a delta the numbers are not to be trusted
LEAST = 1e-6  # a rise that counts as one


@dataclass(frozen=True, slots=True)
class Decision:
    """One number of an output: the largest over the last axis at a place.

    output: key of `predict`'s result, or `output`. place: indices after the sample's, before the
    last axis. choice: index along the last axis. sample: whose decision it is.
    """

    output: str
    place: tuple[int, ...]
    choice: int
    sample: int = 0

    @property
    def index(self) -> tuple[int, ...]:
        """Where its number stands in the output."""
        return (self.sample, *self.place, self.choice)


@dataclass(frozen=True, slots=True)
class Source:
    """A key of the batch by which vectors were looked up, or that holds numbers itself.

    values: in the key's own shape, what each entry adds to the score over the baseline.
    """

    key: str
    values: Tensor


@dataclass(frozen=True, slots=True)
class Attributed:
    """What a decision rests on.

    score, baseline_score: of the decision, at the input and at the baseline. delta: by how much
    the attributions miss their difference. conductance: of the modules, the largest first.
    read: every key by which vectors were looked up, and every one that holds numbers.
    others: the magnitudes of other samples' sources, where these are left out.
    """

    decision: Decision
    score: float
    baseline_score: float
    delta: float
    steps: int
    sources: tuple[Source, ...]
    conductance: Mapping[str, float]
    read: frozenset[str]
    others: float = 0.0

    @property
    def shares(self) -> dict[str, float]:
        """Of the magnitudes, by key; empty where nothing has any."""
        sizes = {each.key: float(each.values.abs().sum()) for each in self.sources}
        total = sum(sizes.values()) + self.others
        return {key: size / total for key, size in sizes.items()} if total > 0 else {}

    @property
    def allowed(self) -> float:
        """The largest delta of numbers that are to be trusted."""
        return LOOSE * max(abs(self.score - self.baseline_score), LEAST)

    def own(self, axes: Mapping[str, int]) -> Attributed:
        """With the sources of the decision's own sample alone, as if of a batch of one.

        axes: the sample axis of every key that has one.
        """
        kept, others = [], 0.0
        for source in self.sources:
            values, axis = source.values, axes.get(source.key)
            if axis is not None:
                values = values.select(axis, self.decision.sample)[None]
            others += float(source.values.abs().sum() - values.abs().sum())
            kept.append(Source(source.key, values))
        return replace(self, sources=tuple(kept), others=max(others, 0.0))


Predict = Callable[[Batch], Any]


def outputs_of(found: Any) -> dict[str, Tensor]:
    """The floating outputs of a predict by name, with an axis after the sample's at least."""
    named = found if isinstance(found, Mapping) else {"output": found}
    return {
        str(name): each
        for name, each in named.items()
        if isinstance(each, Tensor) and each.is_floating_point() and each.ndim > 1
    }


def decide(found: Any, output: str, place: Sequence[int], sample: int = 0) -> Decision:
    """The decision that the model makes there. Raises ExperimentError where there is none."""
    named = outputs_of(found)
    if output not in named:
        raise ExperimentError(
            f"`{output}` is no output that decides: there are {', '.join(named) or 'none'}"
        )
    scores = named[output]
    middle = tuple(scores.shape[1:-1])
    if len(place) != len(middle) or any(
        not 0 <= at < n for at, n in zip(place, middle, strict=True)
    ):
        raise ExperimentError(
            f"`{output}` has places of shape {middle}, and {tuple(place)} is none"
        )
    return Decision(output, tuple(place), int(scores[(sample, *place)].argmax()), sample)


def attribute(
    model: nn.Module,
    batch: Batch,
    predict: Predict,
    decision: Decision,
    steps: int = STEPS,
    besides: Collection[str] = (),
    modules: bool = True,
) -> Attributed:
    """What the decision rests on, in eval mode; model, modes and random states are as before.

    Sources are the vectors that the model looks up by a key of integers, and the keys of floating
    numbers, but for those `besides`, such as masks and labels. modules: whether their conductance
    is told, which takes as long as all else.
    predict: runs the model on a batch such as this one. Raises ExperimentError where the model
    reads neither, or the decision does not depend on what it reads.
    """
    made: list[Attributed] = []

    def run() -> Tensor:
        model.eval()
        made.append(_attributed(model, Reader(batch, predict, besides), decision, steps, modules))
        return torch.zeros(())

    replay(run, model, Snapshot.take(model))
    return made[0]


class Reader:
    """Runs a model with other vectors in place of those that it reads of a batch.

    found: the vectors that it reads, each with its key. keys: the tensors that they came by.
    """

    def __init__(self, batch: Batch, predict: Predict, besides: Collection[str]) -> None:
        own = {path: leaf for path, leaf in leaves(batch).items() if isinstance(leaf, Tensor)}
        self._batch, self._predict = batch, predict
        self._ids = {path: leaf for path, leaf in own.items() if leaf.dtype in IDS}
        self._numbers = {
            path: leaf
            for path, leaf in own.items()
            if leaf.is_floating_point() and leaf.ndim > 1 and path not in besides
        }
        with torch.no_grad(), Lookups(self._ids) as seen:
            predict(batch)
        self.found = [*self._numbers.items(), *seen.found]
        self.keys = self._ids | self._numbers

    def score(self, decision: Decision, vectors: Sequence[Tensor]) -> Tensor:
        """The decision's number, of a run that reads these vectors in place of those found."""
        count = len(self._numbers)
        given = dict(zip(self._numbers, vectors[:count], strict=True))
        batch = map_leaves(self._batch, lambda path, leaf: given.get(path, leaf))
        with Lookups(self._ids, vectors[count:]):
            return outputs_of(self._predict(batch))[decision.output][decision.index]


def _attributed(
    model: nn.Module, reader: Reader, decision: Decision, steps: int, modules: bool
) -> Attributed:
    if not reader.found:
        raise ExperimentError(
            "the model looks no vector up by a key of the batch, which holds no numbers either"
        )
    keys, score = reader.keys, partial(reader.score, decision)
    vectors = tuple(each.detach().clone().requires_grad_() for _, each in reader.found)
    kept = _reached(score(vectors), vectors)  # others feed later ones
    if not kept:
        raise ExperimentError("no gradient leads from the decision to anything that is read")
    rows = tuple(vectors[at].detach().reshape(1, -1) for at in kept)

    def along(*inputs: Tensor) -> Tensor:
        """The score at each row of the inputs: (step, number) of every source -> (step,)."""
        return torch.stack([score(_whole(vectors, kept, row)) for row in zip(*inputs, strict=True)])

    values, delta = _integrated(along, rows, steps)
    with torch.no_grad():
        ends = along(*(torch.cat([row, torch.zeros_like(row)]) for row in rows)).tolist()
    sources = [
        Source(reader.found[at][0], each.reshape(keys[reader.found[at][0]].numel(), -1).sum(1))
        for at, each in zip(kept, values, strict=True)
    ]
    return Attributed(
        decision=decision,
        score=ends[0],
        baseline_score=ends[1],
        delta=delta,
        steps=steps,
        sources=tuple(_joined(sources, keys)),
        conductance=_conductance(model, lambda at: score(_scaled(vectors, kept, at)), steps)
        if modules
        else {},
        read=frozenset(key for key, _ in reader.found),
    )


def _reached(score: Tensor, vectors: Sequence[Tensor]) -> list[int]:
    """Places of the vectors that a gradient leads to."""
    if not score.requires_grad:
        return []
    grads = torch.autograd.grad(score, vectors, allow_unused=True)
    return [at for at, grad in enumerate(grads) if grad is not None]


def _whole(vectors: Sequence[Tensor], kept: Sequence[int], row: Sequence[Tensor]) -> list[Tensor]:
    """All vectors, with those that are attributed to as the row has them."""
    changed = dict(zip(kept, row, strict=True))
    return [changed[at].view_as(v) if at in changed else v.detach() for at, v in enumerate(vectors)]


def _scaled(vectors: Sequence[Tensor], kept: Sequence[int], share: float) -> list[Tensor]:
    row = [(vectors[at].detach() * share).requires_grad_() for at in kept]
    return _whole(vectors, kept, row)


def _integrated(
    along: Callable[..., Tensor], rows: tuple[Tensor, ...], steps: int
) -> tuple[tuple[Tensor, ...], float]:
    from captum.attr import IntegratedGradients

    found, delta = IntegratedGradients(along).attribute(
        rows,
        baselines=tuple(torch.zeros_like(row) for row in rows),
        n_steps=steps,
        internal_batch_size=1,  # one graph at a time
        return_convergence_delta=True,
    )
    held = tuple(each.to(row.dtype) for each, row in zip(found, rows, strict=True))
    return held, float(delta.sum())  # captum 0.7 weighs float32 gradients in float64


def _joined(sources: Sequence[Source], keys: Mapping[str, Tensor]) -> Iterator[Source]:
    """Sources of one key as one, in the key's own shape."""
    for key in dict.fromkeys(source.key for source in sources):
        own = [source.values for source in sources if source.key == key]
        yield Source(key, torch.stack(own).sum(0).view(keys[key].shape).detach().cpu())


def _conductance(
    model: nn.Module, score: Callable[[float], Tensor], steps: int
) -> dict[str, float]:
    """How much of the score's rise from the baseline flows through each module's output.

    The sum over the way of gradient times change (Dhamdhere and others, 2018), of modules that
    are called once and give a tensor.
    """
    names = {name: module for name, module in model.named_modules() if name}
    before: dict[str, Tensor] = {}
    flows: dict[str, float] = {}
    for step in range(steps + 1):
        with _outputs(names) as outputs:
            value = score(step / steps)
        once = {name: found[0] for name, found in outputs.items() if len(found) == 1}
        if not once or not value.requires_grad:
            return {}
        grads = torch.autograd.grad(value, list(once.values()), allow_unused=True)
        for (name, out), grad in zip(once.items(), grads, strict=True):
            if grad is not None and name in before and before[name].shape == out.shape:
                flows[name] = flows.get(name, 0.0) + float(
                    (grad * (out.detach() - before[name])).sum()
                )
            before[name] = out.detach()
    ranked = sorted(flows.items(), key=lambda item: -abs(item[1]))
    return dict(ranked[:MODULES])


@contextmanager
def _outputs(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """Inside, what each module's forward gives is kept, where it is a tensor with a gradient."""
    found: dict[str, list[Tensor]] = {}
    with ExitStack() as stack:
        for name, module in modules.items():
            own = vars(module)
            had = "forward" in own
            stack.callback(_put_back, own, own.get("forward"), had)
            own["forward"] = _kept(name, module.forward, found)
        yield found


def _kept(name: str, forward: Callable[..., Any], found: dict[str, list[Tensor]]) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        if isinstance(out, Tensor) and out.requires_grad:
            found.setdefault(name, []).append(out)
        return out

    return run


def _put_back(own: dict[str, Any], forward: Any, had: bool) -> None:
    if had:
        own["forward"] = forward
    else:
        own.pop("forward", None)
