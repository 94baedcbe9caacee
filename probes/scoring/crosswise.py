"""Two heads that are scored against each other's labels: by the gradient that each label moves."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from probes.bus import Kind
from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.reading.alive import Alive, alive
from probes.scoring.targets import varied

WORD = re.compile(r"[a-z]+|\d+")
PLAIN = {  # words that say what a key or a head is, and not which
    *("label", "labels", "target", "targets", "gold", "y", "id", "ids", "model"),
    *("head", "heads", "logit", "logits", "out", "output", "outputs", "score", "scores"),
    *("classifier", "proj", "linear"),
}
SMALL = 1e-5  # of the largest gradient: less does not count as moved


@dataclass(frozen=True, slots=True)
class Crossed:
    """The output that is called as one key is scored against the other, and the other way round."""

    keys: tuple[str, str]
    outputs: tuple[str, str]


def crossed(experiment: Experiment) -> Crossed | None:
    """The first two keys of labels of which it is so."""
    keys = [key for key in experiment.targets if experiment.tensors[key].ndim]
    if len(keys) < 2:
        return None
    seen = alive(experiment)
    sites = {each.site for each in seen.shown if each.kind is Kind.OUTPUT}
    for one, two in combinations(keys, 2):
        named = [named_as(one, two, sites), named_as(two, one, sites)]
        if not all(named) or experiment.tensors[one].shape != experiment.tensors[two].shape:
            continue
        first, second = _scored(experiment, seen, one), _scored(experiment, seen, two)
        first, second = first - second, second - first
        theirs = sorted(first & named[1]), sorted(second & named[0])
        if all(theirs) and not first & named[0] and not second & named[1]:
            return Crossed((one, two), (theirs[0][0], theirs[1][0]))
    return None


def named_as(key: str, other: str, sites: set[str]) -> set[str]:
    """The sites that are called as the key is, and not as the other."""
    own, others = _words(key) - _words(other), _words(other) - _words(key)
    return {site for site in sites if own & _words(site) and not others & _words(site)}


def _words(name: str) -> set[str]:
    return set(WORD.findall(name.lower())) - PLAIN


def _scored(experiment: Experiment, seen: Alive, key: str) -> set[str]:
    """The outputs whose gradient another label moves."""
    tensor = experiment.tensors[key]
    other = varied(tensor, torch.ones_like(tensor, dtype=torch.bool))
    if other is None:
        return set()
    after = alive(experiment, with_leaf(experiment.batch, key, other))
    if len(after.shown) != len(seen.shown):
        raise ExperimentError(f"with other values in `{key}` other modules run")
    pairs = zip(_grads(seen), _grads(after), seen.shown, strict=True)
    return {
        each.site
        for one, two, each in pairs
        if each.kind is Kind.OUTPUT and one is not None and two is not None and _moves(one, two)
    }


def _grads(seen: Alive) -> list[Tensor | None]:
    return seen.of_loss([each.tensor for each in seen.shown])


def _moves(one: Tensor, two: Tensor) -> bool:
    same = one.shape == two.shape
    return not same or bool(((one - two).abs() > SMALL * one.abs().max()).any())
