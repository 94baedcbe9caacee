"""A model that has begun: what its loss writes once, as it runs first, is written."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from probes.replay import given_back


@contextmanager
def settled(model: nn.Module, run: Callable[[], object]) -> Iterator[None]:
    """Inside, what the loss writes into the model in its first pass alone stands there.

    Such as a scale and a shift that are taken from the first batch, of which the parameters that
    stood there before decide nothing. Where all that the first pass writes is written anew by the
    next one, as running statistics are, nothing is done. Afterwards all is as it was before.
    run: runs the loss, and undoes nothing. Raises what it raises.
    """
    with given_back(model):
        before, once = _held(model), _after(model, run)
        begins = _written(before, once)
        if begins:
            begins -= _written(once, _after(model, run))
    if not begins:
        yield
        return
    with given_back(model):
        _after(model, run)
        yield


def _after(model: nn.Module, run: Callable[[], object]) -> dict[str, Tensor]:
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # they were shown when the loss ran first
        run()
    return _held(model)


def _held(model: nn.Module) -> dict[str, Tensor]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: each.detach().clone() for name, each in tensors.items()}


def _written(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """The names under which other numbers stand."""
    return {
        name
        for name, each in after.items()
        if name in before
        and not (each.shape == before[name].shape and torch.equal(each, before[name]))
    }
