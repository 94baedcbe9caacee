"""What a decision of a model rests on: integrated gradients, by captum, over its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probes.batch import leaves
from probes.finding import ExperimentError
from probes.lookups import Lookups
from probes.replay import Snapshot, replay
from probes.subject import Batch

STEPS = 24  # of the integral
BASELINE = "every vector zero"
MODULES = 40  # whose conductance is told


@dataclass(frozen=True, slots=True)
class Decision:
    """One number of an output: the largest over the last axis at a place.

    output: key of `predict`'s result, or `output`. place: indices after the sample's, before the
    last axis. choice: index along the last axis.
    """

    output: str
    place: tuple[int, ...]
    choice: int


@dataclass(frozen=True, slots=True)
class Source:
    """A key of the batch by which vectors were looked up.

    values: in the key's own shape, what each entry adds to the score over the baseline.
    """

    key: str
    values: Tensor


@dataclass(frozen=True, slots=True)
class Attributed:
    """What a decision rests on.

    score, baseline_score: of the decision, at the input and at the baseline. delta: by how much
    the attributions miss their difference. conductance: of the modules, the largest first.
    read: every key by which vectors were looked up.
    """

    decision: Decision
    score: float
    baseline_score: float
    delta: float
    steps: int
    sources: tuple[Source, ...]
    conductance: Mapping[str, float]
    read: frozenset[str]

    @property
    def shares(self) -> dict[str, float]:
        """Of the magnitudes, by key; empty where nothing has any."""
        sizes = {each.key: float(each.values.abs().sum()) for each in self.sources}
        total = sum(sizes.values())
        return {key: size / total for key, size in sizes.items()} if total > 0 else {}


Predict = Callable[[], Any]


def outputs_of(found: Any) -> dict[str, Tensor]:
    """The floating outputs of a predict by name, with an axis after the sample's at least."""
    named = found if isinstance(found, Mapping) else {"output": found}
    return {
        str(name): each
        for name, each in named.items()
        if isinstance(each, Tensor) and each.is_floating_point() and each.ndim > 1
    }


def decide(found: Any, output: str, place: Sequence[int]) -> Decision:
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
    return Decision(output, tuple(place), int(scores[(0, *place)].argmax()))


def attribute(
    model: nn.Module, batch: Batch, predict: Predict, decision: Decision, steps: int = STEPS
) -> Attributed:
    """What the decision rests on, in eval mode; model, modes and random states are as before.

    batch: of one sample. predict: runs the model on it. Raises ExperimentError where the model
    looks nothing up by a key of the batch, or the decision does not depend on what it does.
    """
    keys = {path: leaf for path, leaf in leaves(batch).items() if _counts(leaf)}
    made: list[Attributed] = []

    def run() -> Tensor:
        model.eval()
        made.append(_attributed(model, keys, predict, decision, steps))
        return torch.zeros(())

    replay(run, model, Snapshot.take(model))
    return made[0]


def _counts(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dtype in (torch.int64, torch.int32)


def _attributed(
    model: nn.Module, keys: Mapping[str, Tensor], predict: Predict, decision: Decision, steps: int
) -> Attributed:
    with torch.no_grad(), Lookups(keys) as seen:
        predict()
    if not seen.found:
        raise ExperimentError("the model looks no vector up by a key of the batch")

    def score(vectors: Sequence[Tensor]) -> Tensor:
        with Lookups(keys, vectors):
            found = outputs_of(predict())[decision.output]
        return found[(0, *decision.place, decision.choice)]

    vectors = tuple(each.detach().requires_grad_() for _, each in seen.found)
    reached = torch.autograd.grad(score(vectors), vectors, allow_unused=True)
    kept = [at for at, grad in enumerate(reached) if grad is not None]  # others feed later ones
    if not kept:
        raise ExperimentError("the decision depends on nothing that is looked up")
    rows = tuple(vectors[at].detach().reshape(1, -1) for at in kept)

    def along(*inputs: Tensor) -> Tensor:
        """The score at each row of the inputs: (step, number) of every source -> (step,)."""
        return torch.stack([score(_whole(vectors, kept, row)) for row in zip(*inputs, strict=True)])

    values, delta = _integrated(along, rows, steps)
    with torch.no_grad():
        ends = along(*(torch.cat([row, torch.zeros_like(row)]) for row in rows)).tolist()
    sources = [
        Source(seen.found[at][0], each.reshape(keys[seen.found[at][0]].numel(), -1).sum(1))
        for at, each in zip(kept, values, strict=True)
    ]
    return Attributed(
        decision=decision,
        score=ends[0],
        baseline_score=ends[1],
        delta=delta,
        steps=steps,
        sources=tuple(_joined(sources, keys)),
        conductance=_conductance(model, lambda at: score(_scaled(vectors, kept, at)), steps),
        read=frozenset(key for key, _ in seen.found),
    )


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
        return_convergence_delta=True,
    )
    return found, float(delta.sum())


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
