"""The random states of python, numpy and torch as tensors, so that a checkpoint can hold them."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def random_state() -> dict[str, Tensor]:
    """All that it takes to draw the same numbers again, every CUDA device's state included."""
    version, words, gauss = random.getstate()
    _, keys, place, has_gauss, cached = np.random.get_state(legacy=True)
    state = {
        "python.words": torch.tensor([version, *words]),
        "python.gauss": _maybe(gauss),
        "numpy.words": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "numpy.place": torch.tensor([int(place), int(has_gauss)]),
        "numpy.gauss": torch.tensor(float(cached), dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        for index, words_of_device in enumerate(torch.cuda.get_rng_state_all()):
            state[f"cuda.{index}"] = words_of_device
    return state


def _maybe(number: float | None) -> Tensor:
    """The second half of a pair of normal draws, or nothing: (0 or 1,)."""
    return torch.tensor([] if number is None else [number], dtype=torch.float64)


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """The generators go on where `random_state` found them; a device that is gone is left out."""
    version, *words = state["python.words"].tolist()
    gauss = state["python.gauss"].tolist()
    random.setstate((version, tuple(words), gauss[0] if gauss else None))
    place, has_gauss = state["numpy.place"].tolist()
    keys = state["numpy.words"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, place, has_gauss, float(state["numpy.gauss"])))
    torch.set_rng_state(state["torch"])
    for name, words_of_device in state.items():
        kind, _, index = name.partition(".")
        if kind == "cuda" and int(index) < torch.cuda.device_count():
            torch.cuda.set_rng_state(words_of_device, int(index))
