"""Labels whose score is a mask's fill value: no weight moves it, and other outputs hold it too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

DEEP = -1e4  # a score at or below it is no answer, where no weight moves it
DRAWS = 8  # of weights, each of which a score must stay the same in; a dead unit comes alive


def filled(scores: Tensor, labels: Tensor, again: Callable[[int], Tensor | None]) -> Tensor:
    """(place..., class) the outputs that share the label's score, where no weight moves it.

    scores: (place..., class). labels: (place...). again: gives the scores under other weights, by
    the number of the draw; None where they cannot be had. A score of which all of the row is one
    is none, and neither is one that it shares with nobody, as that of a class of reference.
    """
    classes = scores.shape[-1]
    at = labels.clamp(0, classes - 1).long()[..., None]
    gold = scores.gather(-1, at)
    inside = ((labels >= 0) & (labels < classes))[..., None]
    own = torch.arange(classes, device=scores.device) == at
    found = inside & (scores == gold) & ~own
    for draw in range(DRAWS):
        if not bool(found.any()):
            return found
        other = again(draw)
        if other is None or other.shape != scores.shape:
            return torch.zeros_like(found)
        found = found & (other == gold) & (other.gather(-1, at) == gold)
    return found & (found.sum(-1, keepdim=True) < classes - 1)


def sunk(scores: Tensor, labels: Tensor, again: Callable[[int], Tensor | None]) -> Tensor:
    """(place...) true where the label's score is `DEEP` or lower, and no weight moves it.

    Arguments as of `filled`. It need not be shared with another class, and those that are open may
    have come down towards it, as training makes them where such a label is scored.
    """
    classes = scores.shape[-1]
    at = labels.clamp(0, classes - 1).long()[..., None]
    gold = scores.gather(-1, at)
    inside = ((labels >= 0) & (labels < classes))[..., None]
    found = inside & (gold <= DEEP) & (gold < scores.max(-1, keepdim=True).values)
    for draw in range(DRAWS):
        if not bool(found.any()):
            break
        other = again(draw)
        if other is None or other.shape != scores.shape:
            return torch.zeros_like(found)[..., 0]
        found = found & (other.gather(-1, at) == gold)
    return found[..., 0]


def redraw(model: nn.Module, seed: int) -> None:
    """Every floating parameter holds other numbers, of about its size and of one seed."""
    chance = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.numel():
            size = parameter.detach().double().square().mean().sqrt().clamp(min=1e-2)
            noise = torch.randn(parameter.shape, generator=chance, device="cpu")
            parameter.data.add_(noise.to(parameter) * size.to(parameter))


@contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Afterwards the parameters hold what they held, to the bit."""
    before = [(each, each.detach().clone()) for each in model.parameters()]
    try:
        yield
    finally:
        for parameter, value in before:
            parameter.data.copy_(value)
