"""Which outputs may not read what comes later: declared, or by what the model is called."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.experiment import Experiment, with_leaf
from probes.layout import Labels, Reads
from probes.vary import vary_later

NAMED = re.compile(r"causal|lmheadmodel", re.IGNORECASE)
ORDERED = ("turn", "token", "unit", "time")


@dataclass(frozen=True)
class Causal:
    """An output that reads a key up to its own place.

    shared: how many first axes output and key have in common, samples first, then places in
    order. ahead: 1 where the output does not read its own place either. guessed: the line that
    would declare it; None where it is declared. short: how many of the key's last places have no
    output, since the subject's code cuts them off before the model.
    """

    output: str
    key: str
    shared: int
    ahead: int
    guessed: str | None
    short: int = 0

    def lead(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shared axes of the output, of a key of this shape."""
        return (*shape[: self.shared - 1], shape[self.shared - 1] - self.short)

    def order(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """The place of every entry of the shared axes: (1, ...), counted through all of them."""
        places = shape[1 : self.shared]
        count = int(torch.tensor(places, device="cpu").prod())
        return torch.arange(count, device=device).view(1, *places)


def causal(experiment: Experiment) -> Iterator[Causal]:
    """The declared ones; without any, what the names of model and modules say."""
    reads = [each for each in experiment.declared.reads if each.of in experiment.tensors]
    for each in reads:
        if each.rule in ("causal", "before") and each.output in experiment.outputs:
            shared = _shared(experiment, each)
            short = 0 if shared > 1 else cut_off(experiment, each.output, each.of)
            if shared > 1 or short:
                ahead = int(each.rule == "before")
                yield Causal(each.output, each.of, max(shared, 2), ahead, None, short)
    if not reads and _is_named_so(experiment):
        yield from _guessed(experiment)


def _shared(experiment: Experiment, reads: Reads) -> int:
    key, output = experiment.tensors[reads.of].shape, experiment.outputs[reads.output].shape
    axes = experiment.layout.axes.get(reads.of), experiment.layout.axes.get(reads.output)
    shared = 0
    for i, (one, two) in enumerate(zip(key, output, strict=False)):
        names = {named[i] for named in axes if named is not None and len(named) > i}
        is_place = i == 0 or len(names) == 0 or (len(names) == 1 and names <= set(ORDERED))
        if one != two or not is_place:
            break
        shared += 1
    return shared


def cut_off(experiment: Experiment, name: str, key: str) -> int:
    """1 where the output has one place less than the key, whose last entry it does not read."""
    known = f"cut off {name} of {key}"
    if known not in experiment.memo:
        experiment.memo[known] = int(_is_cut_off(experiment, name, key))
    found: int = experiment.memo[known]
    return found


def _is_cut_off(experiment: Experiment, name: str, key: str) -> bool:
    tensor, output = experiment.tensors[key], experiment.outputs[name]
    if tensor.ndim < 2 or output.ndim < 2 or len(tensor) != len(output) or tensor.shape[1] < 3:
        return False
    last = torch.zeros(tensor.shape[:2], dtype=torch.bool, device=tensor.device)
    last[:, -1] = True
    other = vary_later(tensor, last) if output.shape[1] == tensor.shape[1] - 1 else None
    if other is None:
        return False
    ran = experiment.evaluate(with_leaf(experiment.batch, key, other))
    return all(one.site != name for one in experiment.evaluated.against(ran).outputs)


def _is_named_so(experiment: Experiment) -> bool:
    model = experiment.subject.model
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return False
    return any(NAMED.search(type(module).__name__) for module in model.modules())


def _guessed(experiment: Experiment) -> Iterator[Causal]:
    """Where one key of ids and one output by their places are there, and no more."""
    others = {m.key for m in experiment.layout.masks} | {x.key for x in experiment.layout.labels}
    keys = [
        key
        for key, tensor in experiment.tensors.items()
        if tensor.ndim == 2 and not tensor.is_floating_point() and key not in others
    ]
    keys = [key for key in keys if "type" not in key and "position" not in key]
    if len(keys) != 1:
        return
    shape = experiment.tensors[keys[0]].shape
    outputs = [
        name
        for name, value in experiment.outputs.items()
        if value.ndim == 3 and value.shape[:2] == shape and value.is_floating_point()
    ]
    if len(outputs) == 1:
        line = f"reads=({Reads(outputs[0], keys[0], rule='causal')!r},)"
        yield Causal(outputs[0], keys[0], 2, 0, line)


def seen_causal(experiment: Experiment, labels: Labels, key: str) -> Iterator[Causal]:
    """An output by the key's places that is found to read none after its own, but those before."""
    tensor, line = experiment.tensors[key], f"reads=({Reads(labels.output, key, 'causal')!r},)"
    shape = tuple(tensor.shape)
    names = [
        name
        for name, value in experiment.outputs.items()
        if tuple(value.shape[:-1]) == shape and value.is_floating_point() and shape[-1] > 2
    ]
    only = torch.zeros(shape, dtype=torch.bool, device=tensor.device)
    only[..., shape[-1] // 2 if shape else 0] = True
    other = vary_later(tensor, only)
    if not names or other is None:
        return
    ran = experiment.evaluate(with_leaf(experiment.batch, key, other)).outputs
    for name in names:
        if name in ran and ran[name].shape == experiment.outputs[name].shape:
            moved = (ran[name] - experiment.outputs[name]).abs().amax(-1)
            least = 1e-5 * float(experiment.outputs[name].nan_to_num(0, 0, 0).abs().max())
            felt = (moved > least).flatten(0, -2).any(0)
            middle = shape[-1] // 2
            if not bool(felt[:middle].any()) and bool(felt[middle]) and bool(felt[middle:].any()):
                yield Causal(name, key, len(shape), 0, line)
                return
