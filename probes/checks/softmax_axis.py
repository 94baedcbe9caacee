"""WIR014: a softmax runs over an axis that its result is not used along."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.operators.one_hots import Met
from probes.softmaxes.formed import Use, normalised, places
from probes.softmaxes.over_queries import over_queries

SOFTMAX = ("softmax", "log_softmax")
PICKS = ("gather", "take_along_dim")


@dataclass(frozen=True, slots=True)
class SoftmaxAxis:
    """A softmax is taken over the samples of the batch, over one entry, or not over the classes.

    Over samples it makes them compete where each has labels of its own; similarities of samples
    with samples, where the batch is on two axes, are healthy, and so is a batch that is one bag
    with one label. Over the one score of a linear layer it gives 1 whatever that is.
    Attention whose weights do not sum to one over what they are multiplied with, but do over
    another axis of theirs, was normalised over the queries, in a product of matrices, an einsum or
    a sum of products. Clusters, slots or experts that compete for items are as many as the model
    has and not as the batch brings, and weights that are divided by their sum after are healthy.
    Log-probabilities out of which the last
    axis is picked, but which sum to one along another, are of the wrong axis. So is what meets,
    entry by entry, a one-hot of labels whose classes stand along another axis than the one that
    sums to one: compared, picked out along the classes, or where the sum of one runs over some of a
    sample's places and was itself summed up, or the same scores are normalised over the classes
    too. Weights over all places whose share in a class is taken, and scores of pairs, are healthy.

    Sick: `F.log_softmax(scores, dim=0)` of (sample, class).
    Healthy: `F.log_softmax(scores, dim=-1)`; `F.log_softmax(a @ b.T, dim=0)`.
    """

    code: ClassVar[str] = "WIR014"
    rule: ClassVar[str] = "softmax-axis"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing."""
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a line."""
        for use, _ in places(experiment.formed):
            what = _what(experiment, use)
            if what is not None:
                yield self._said(use, what)
        yield from self._contracted(experiment)
        for met in experiment.operated.met:
            key = _key(experiment, met)
            if key is not None:
                yield self._beside(met, key)

    def _beside(self, met: Met, key: str) -> Finding:
        of, classes = met.of, met.hot.shape[met.axis]
        way = "compared" if met.compared else "multiplied"
        too = f"; the same scores are normalised over axis {met.axis} elsewhere" * met.twice
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{of.op}` of {tuple(of.given.shape)} runs over axis {of.axis}, and is {way} "
            f"with a one-hot of `{key}`, whose {classes} classes stand along axis {met.axis} of "
            f"{tuple(met.hot.shape)}: places compete for each class, not the classes{too}.",
            fix="Take the softmax over the axis of the classes.",
            site=of.site,
            op=of.op,
            phase="forward",
            source=of.source,
            evidence=(
                Evidence("axis that sums to one", of.axis),
                Evidence("axis of the classes", met.axis),
            ),
        )

    def _contracted(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a module whose weights are normalised over the queries."""
        said = set[str]()
        for each in over_queries(experiment):
            of = each.of
            if of.site in said:
                continue
            said.add(of.site)
            yield Finding(
                code=self.code,
                rule=self.rule,
                verdict=Verdict.WARN,
                message=f"the weights of the attention, {of.shape}, sum to one over axis "
                f"{of.axis}, and are multiplied with values along another: the queries compete, "
                "not the keys.",
                fix="Take the softmax over the keys, mostly `dim=-1`.",
                site=of.site,
                op="softmax",
                phase="forward",
                source=of.source,
                evidence=(
                    Evidence("axis that sums to one", of.axis),
                    Evidence("least sum of weights over what they weigh", each.low, 1),
                    Evidence("largest", each.high, 1),
                ),
            )

    def _said(self, use: Use, what: str) -> Finding:
        shape = tuple(use.given.shape)
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN if use.name in SOFTMAX else Verdict.FAIL,
            message=f"`{use.name}` of {shape} over axis {use.dim}: {what}.",
            fix="Take the softmax over the axis of the classes, mostly `dim=-1`.",
            site=use.site or "<loss>",
            op=use.name,
            phase="forward",
            source=use.source,
            evidence=(Evidence("axis", use.dim), Evidence("entries along it", shape[use.dim or 0])),
        )


def _what(experiment: Experiment, use: Use) -> str | None:
    shape, dim, size = use.given.shape, use.dim, experiment.size
    if dim is None or len(shape) < 2:
        return None
    if use.name in SOFTMAX:
        if dim == 0 and shape[0] == size > 1 and list(shape).count(size) == 1:
            own = any(len(t) == size for t in _labels(experiment))
            return "it runs over the samples, each of which has labels of its own" if own else None
        if shape[dim] == 1 and (tuple(shape) == (size, 1) or use.of == "linear"):
            return "it runs over one entry, and gives 1 whatever the score"
        return None
    last = dim == len(shape) - 1
    if use.name in PICKS and use.of == "log_softmax" and last and not normalised(use.given, dim):
        others = [i for i in range(dim) if normalised(use.given, i)]
        if others:
            return f"it picks out of log-probabilities that sum to one along axis {others[0]}"
    return None


def _labels(experiment: Experiment) -> list[torch.Tensor]:
    keys = [each.key for each in experiment.layout.labels]
    return [experiment.tensors[key] for key in keys if key in experiment.tensors]


def _key(experiment: Experiment, met: Met) -> str | None:
    """The key whose classes the one-hot holds, or that is the one-hot itself; None without one.

    Nor where as many items stand in the batch: what is chosen among may be these.
    """
    if met.hot.shape[met.axis] in _items(experiment):
        return None
    classes, there = met.labels
    for key, each in experiment.tensors.items():
        if each.numel() == met.hot.numel():
            if bool((each.to(met.hot.device).reshape(met.hot.shape) == met.hot).all()):
                return key
        elif each.numel() == classes.numel():
            apart = (each.to(classes.device).double().reshape(classes.shape) - classes)[there]
            if bool((apart == apart[0]).all()):  # with or without a background in front
                return key
    return None


def _items(experiment: Experiment) -> set[int]:
    """Lengths of rows of ids and numbers, and of pictures but for their channels."""
    found = set[int]()
    for tensor in experiment.tensors.values():
        shape = tensor.shape
        if tensor.is_floating_point():
            shape = shape[1:] if tensor.ndim > 3 else shape[:-1]
        found.update(shape[1:])
    return found
