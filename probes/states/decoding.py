"""The same output had in other ways: from a prefix, from a kept state, from what was generated."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from probes.batch import map_leaves
from probes.bus import Bus, Kind, See
from probes.compare import NOISES, Baseline, gap, scale
from probes.execution import Ran, named
from probes.experiment import Experiment, attempted, with_leaf
from probes.reading.causal import Causal
from probes.states.parted import Parted, visible

STATES: tuple[str, ...] = (
    *("past_key_values", "past_key_value", "past_kv", "past", "kv_cache", "cache"),
    *("state", "hidden", "hx", "memory", "mems"),
)
"""Names under which a model's forward takes, or gives, what it kept of earlier places."""


def from_prefix(experiment: Experiment, each: Causal, length: int) -> Parted | None:
    """The last output of the batch cut to its first places; None where they agree."""
    lead = tuple(experiment.tensors[each.key].shape[: each.shared])
    axis = each.shared - 1
    if each.guessed is not None and _has_others(experiment, each.key, lead):
        return None  # such as what a decoder attends to, which is to stay whole

    def cut(_: str, leaf: Any) -> Any:
        along = isinstance(leaf, Tensor) and tuple(leaf.shape[: each.shared]) == lead
        return leaf.narrow(axis, 0, length) if along else leaf

    ran = experiment.evaluate(map_leaves(experiment.batch, cut))
    after, before = ran.outputs.get(each.output), experiment.outputs[each.output]
    if after is None or after.shape != before.narrow(axis, 0, length - each.short).shape:
        return None
    at = length - each.short - 1
    seen = visible(experiment, each, before).narrow(axis, at, 1)
    for outer in range(1, axis):  # later turns may read all of the ones before, which are cut
        seen.narrow(outer, 1, seen.shape[outer] - 1).fill_(False)
    how = f"the batch is cut after {length} places"
    return _parted(
        experiment, how, at, before.narrow(axis, at, 1), after.narrow(axis, at, 1), ran, seen
    )


def _has_others(experiment: Experiment, key: str, lead: tuple[int, ...]) -> bool:
    """Whether another key, no mask and no label, has as many places."""
    masks = (mask.key for mask in experiment.layout.masks if key in mask.hides)
    known = {key, *experiment.targets, *masks}
    return any(
        tuple(tensor.shape[: len(lead)]) == lead
        for path, tensor in experiment.tensors.items()
        if path not in known
    )


def from_state(experiment: Experiment, each: Causal, length: int) -> Parted | None:
    """The outputs of the later places, given the state that the model returned with the first.

    None where they agree, and where the model takes no state or returns none.
    """
    model = experiment.subject.model
    known = inspect.signature(model.forward).parameters
    name = next((n for n in STATES if n in known and known[n].default is None), None)
    call = _call(experiment) if name is not None else None
    before = experiment.outputs[each.output]
    shape = each.lead(tuple(experiment.tensors[each.key].shape))
    if name is None or call is None or each.shared != 2:
        return None
    if experiment.tensors[each.key].ndim != 2:
        return None

    cached = {"use_cache": True} if "use_cache" in known else {}

    def resumed(_: Any) -> dict[str, Tensor]:
        with torch.no_grad(), attempted("the model, with the state that it returned,"):
            args, words = _cut(call, shape, length, first=True)
            state = _state(model(*args, **words | cached), name)
            if state is None:
                return {}
            args, words = _cut(call, shape, length, first=False)
            found = dict(named(model(*args, **words | cached | {name: state})))
        return {"rest": found.get(each.output, next(iter(found.values())))}

    ran = Baseline(resumed, None, model.eval(), repeats=True).ran
    after, rest = ran.outputs.get("rest"), before[:, length:]
    if after is None or after.shape != rest.shape:
        return None
    seen = visible(experiment, each, before)[:, length:]
    how = f"`{name}`, kept of the first {length} places, is given with the rest"
    return _parted(experiment, how, length, rest, after, ran, seen)


def _cut(
    call: _Call, shape: Sequence[int], length: int, first: bool
) -> tuple[list[Any], dict[str, Any]]:
    """The call's arguments with the first places alone, or with the later ones; no labels.

    shape: (sample, place) of what is cut. length: of the first places.
    """

    def part(word: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or tuple(value.shape[:2]) != tuple(shape):
            return value
        whole = not first and "mask" in word  # it covers what is kept, too
        return value if whole else value[:, :length] if first else value[:, length:]

    words = {k: part(k, v) for k, v in call.kwargs.items() if "label" not in k}
    return [part("", value) for value in call.args], words


def from_generated(experiment: Experiment, each: Causal, length: int) -> Parted | None:
    """How far below the best score what `model.generate` wrote stands, in the whole pass over it.

    None where it wrote the likeliest, where it draws, and where it cannot be called so.
    """
    model, ids = experiment.subject.model, experiment.tensors[each.key]
    generate = getattr(model, "generate", None)
    plain = (
        each.shared == 2
        and ids.ndim == 2
        and len(experiment.tensors) - len(experiment.layout.labels) == 1
    )
    if generate is None or not plain or not callable(generate):
        return None
    more = int(ids.shape[1]) - length
    first = ids[:, :length]
    written = _written(model, first, more, seed=0)
    if written.ndim != 2 or not torch.equal(written, _written(model, first, more, seed=1)):
        return None
    if written.shape[1] <= more:
        written = torch.cat([first, written], 1)
    count = written.shape[1]
    if count > ids.shape[1] or count <= length or len(written) != len(ids):
        return None
    whole = torch.cat([written, ids[:, count:]], 1).to(ids.dtype)
    ran = experiment.evaluate(with_leaf(experiment.batch, each.key, whole))
    scores = ran.outputs[each.output][:, length - 1 : count - 1]
    chosen = scores.gather(-1, whole[:, length:count, None])
    best = scores.amax(-1, keepdim=True)
    how = f"`model.generate` writes greedily after {length} places"
    return _parted(experiment, how, length, best, chosen, ran, torch.ones_like(best).bool())


def _written(model: Any, ids: Tensor, more: int, seed: int) -> Tensor:
    """What `model.generate` writes greedily after (sample, place) ids; a number if no tensor."""
    known = inspect.signature(model.generate).parameters
    given: tuple[Any, ...] = (ids, more)
    words: dict[str, Any] = {"top_k": 1} if "top_k" in known else {}
    if hasattr(model, "generation_config"):
        given, words = (ids,), {"max_new_tokens": more, "do_sample": False}

    def run(_: Any) -> Tensor:
        torch.manual_seed(seed)
        with torch.no_grad(), attempted("`model.generate`"):
            out = model.generate(*given, **words)
        return out if isinstance(out, Tensor) else torch.zeros(())

    ran = Baseline(run, None, model.eval(), repeats=True).ran
    return next(iter(ran.outputs.values()))


@dataclass(slots=True)
class _Call:
    """What the model itself was last called with."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    sees: Mapping[Kind, See] = field(default_factory=lambda: {Kind.OUTPUT: _blind})

    def before(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], listening: bool) -> None:
        self.args, self.kwargs = args, kwargs

    def after(self, output: Any) -> None:
        """Nothing is to be known then."""


def _blind(_: int, __: Tensor) -> None:
    """Sees nothing."""


def _call(experiment: Experiment) -> _Call | None:
    found = _Call()
    with Bus(experiment.subject.model, [found], found):
        experiment.evaluate(experiment.batch)
    return found if found.args or found.kwargs else None


def _state(out: Any, name: str) -> Any:
    """What the model kept: under the same name, or the last part of a pair."""
    if isinstance(out, Mapping):
        return out.get(name)
    if hasattr(out, name):
        return getattr(out, name)
    return out[1] if isinstance(out, tuple) and len(out) == 2 else None


def _parted(
    experiment: Experiment,
    how: str,
    place: int,
    before: Tensor,
    after: Tensor,
    ran: Ran,
    seen: Tensor,
) -> Parted | None:
    if not bool(seen.any()):
        return None
    size = scale(before, seen)
    rounding = max(ran.rounding, experiment.evaluated.ran.rounding)
    limit = max(NOISES * experiment.evaluated.noise, rounding * size)
    largest, at = gap(before, after, seen)
    if not largest > limit:
        return None
    return Parted(how, place, at[0] if at else 0, largest, largest / size, limit)
