"""The attention maps of any model."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from probes.attention_names import Names, Picture
from probes.batch import sample_count, take
from probes.guess import complete
from probes.layout import Layout
from probes.record import Recorder
from probes.softmaxes.trace import SoftmaxTrace, Use
from probes.subject import Batch, Subject

HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "heads")
SAMPLES = 3  # of a batch, where none are asked for
ARRAYS = 256  # of one run, each with all heads


@dataclass(frozen=True, slots=True)
class AttentionMap:
    """One attention of one forward pass.

    site: the module at work. layer: place of the site in the order of first use.
    call: how often the site had attended before.
    weights: (sample, head, query, key) as the values were weighed, in the model's own `dtype`;
        what a model folds into its batch, such as turns, stands on the sample axis.
    masked_rows: (sample, query) true where every key was masked away, in every head.
    masked_keys: (sample, key) true where the key was masked away for every query.
    """

    site: str
    layer: int
    call: int
    weights: Tensor
    dtype: torch.dtype
    masked_rows: Tensor
    masked_keys: Tensor


def attention_maps(model: nn.Module, run: Callable[[], Any]) -> list[AttentionMap]:
    """Every attention of `run()`, in order, in eval mode and without gradients.

    run: calls the model. Modes, random states and torch's choice of kernels are as before after it.
    A model whose attention is one fused kernel of its own (flash, flex) gives no map.
    """
    trace = SoftmaxTrace(model)
    with _undisturbed(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), trace:
        run()
    layers: dict[str, int] = {}
    calls: Counter[str] = Counter()
    modules = dict(model.named_modules())
    maps = []
    for use in trace.uses:
        site = use.softmax.site
        layer = layers.setdefault(site, len(layers))
        maps.append(_map(use, heads_of(modules, site), layer, calls[site]))
        calls[site] += 1
    return maps


def _map(use: Use, heads: int, layer: int, call: int) -> AttentionMap:
    hidden = fold(use.softmax.hidden, heads, use.operand)
    return AttentionMap(
        site=use.softmax.site,
        layer=layer,
        call=call,
        weights=fold(use.weights, heads, use.operand),
        dtype=use.weights.dtype,
        masked_rows=hidden.all(-1).all(1),
        masked_keys=hidden.all(2).all(1),
    )


def fold(weights: Tensor, heads: int, operand: tuple[int, int] | None) -> Tensor:
    """The weights as (sample, head, query, key).

    weights: (..., query, key), or (sample, key) and (sample, head, key) of single queries.
    heads: of the module. operand: batch and queries of the matrix product that they entered.
    """
    shape = weights.shape
    if weights.ndim >= 4:
        return weights.reshape(-1, *shape[-3:])  # (..., head, query, key)
    if weights.ndim == 3 and operand == (shape[0] * shape[1], 1) and shape[1] > 1:
        return weights.unsqueeze(2)  # (sample, head, 1, key)
    if weights.ndim == 3:
        split = heads if shape[0] % heads == 0 else 1
        return weights.reshape(-1, split, *shape[1:])  # (sample * head, query, key)
    if weights.ndim == 2 and operand in (None, (shape[0], 1)):
        return weights[:, None, None]  # (sample, key)
    return weights.reshape(1, 1, -1, shape[-1])  # (query, key) or (key,)


def heads_of(modules: dict[str, nn.Module], site: str) -> int:
    """The number of heads that the module, or the nearest one around it, declares; 1 otherwise."""
    name = "" if site == "model" and site not in modules else site
    while True:
        for attribute in HEADS:
            found = getattr(modules[name], attribute, None)
            if isinstance(found, int) and found > 0:
                return found
        if not name:
            return 1
        name = name.rpartition(".")[0]


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """In eval mode and on torch's open path inside; modes and random states as before after."""
    modes = {module: module.training for module in model.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    python, numpy = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        stack.callback(random.setstate, python)
        stack.callback(np.random.set_state, numpy)
        stack.callback(_restore, modes)
        stack.enter_context(torch.random.fork_rng(range(torch.cuda.device_count())))
        torch.backends.mha.set_fastpath_enabled(False)
        model.eval()
        yield


def _restore(modes: dict[nn.Module, bool]) -> None:
    for module, mode in modes.items():
        module.training = mode


def write_attention(
    recorder: Recorder,
    subject: Subject,
    model: nn.Module,
    batch: Batch,
    samples: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> int:
    """The attention maps of some samples lie in the record as arrays; returns how many arrays.

    Each sample is run alone, so that a map is certainly its own; a batch that cannot be cut is
    run whole. samples: the first three where None. layers, heads: all where None.
    The record's settings say what was left out, and where nothing was seen.
    """
    count = sample_count(batch, subject.layout)
    chosen: Sequence[int | None] = [None]
    if count is not None:
        chosen = range(min(count, SAMPLES)) if samples is None else samples
    guessed = complete(batch, subject.layout)
    written, left_out = 0, 0
    for sample in chosen:
        for picture in _pictures(subject, model, batch, sample, guessed.layout):
            if layers is not None and picture.layer not in layers:
                continue
            if written == ARRAYS:
                left_out += 1
                continue
            _write(recorder, f"attention-{written:03d}", picture, heads)
            written += 1
    recorder.note(
        attention={
            "samples": None if count is None else list(chosen),
            "of_samples": count,
            "maps": written,
            "left_out": left_out or None,
            "guessed": list(guessed.lines),
        }
    )
    return written


def _pictures(
    subject: Subject, model: nn.Module, batch: Batch, sample: int | None, layout: Layout
) -> Iterator[Picture]:
    """The maps of one sample with the names of their axes and entries."""
    cut = batch if sample is None else take(batch, [sample], subject.layout)
    name = None
    if sample is not None and subject.describe is not None:
        name = subject.describe(batch, sample)
    forward = subject.predict or subject.loss
    names = Names(cut, layout, alone=sample is not None)
    for map_ in joined(attention_maps(model, lambda: forward(model, cut))):
        yield from names.pictures(map_, sample, name)


def joined(maps: Sequence[AttentionMap]) -> Iterator[AttentionMap]:
    """Calls of one site that ask one query each, as a decoder's steps do, as one map of them."""

    def alike(map_: AttentionMap) -> tuple[Any, ...]:
        samples, heads, queries, keys = map_.weights.shape
        apart = 0 if queries == 1 else map_.call + 1
        return map_.layer, apart, samples, heads, keys

    in_order = sorted(maps, key=lambda map_: (map_.layer, map_.call))
    for _, group in groupby(in_order, key=alike):
        calls = list(group)
        yield AttentionMap(
            site=calls[0].site,
            layer=calls[0].layer,
            call=calls[0].call,
            weights=torch.cat([each.weights for each in calls], dim=2),
            dtype=calls[0].dtype,
            masked_rows=torch.cat([each.masked_rows for each in calls], dim=1),
            masked_keys=torch.stack([each.masked_keys for each in calls]).all(0),
        )


def _write(recorder: Recorder, name: str, picture: Picture, heads: Sequence[int] | None) -> None:
    values, kept = picture.weights, range(len(picture.weights))
    if heads is not None:
        kept = [head for head in kept if head in heads]  # type: ignore[assignment]
        values = values[list(kept)]
    recorder.array(
        name,
        values,
        ("head", picture.query_axis, picture.key_axis),
        {"head": [str(head) for head in kept]},
        kind="attention",
        site=picture.site,
        layer=picture.layer,
        call=picture.call,
        dtype=picture.dtype,
        sample=picture.sample,
        sample_name=picture.sample_name,
        row=picture.row,
        queries=picture.queries,
        keys=picture.keys,
        query_padding=picture.query_padding,
        padding=picture.key_padding,
        hidden=picture.hidden,
        masked_rows=picture.masked_rows,
    )
