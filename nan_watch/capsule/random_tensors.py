"""The generators' states as tensors, so that a file of tensors can hold them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from probes.replay import RandomState


def random_tensors(state: RandomState) -> dict[str, Tensor]:
    """All that it takes to draw the same numbers again, every CUDA device's state included."""
    found = {"torch": state.cpu} | {f"cuda.{i}": each for i, each in enumerate(state.cuda)}
    if state.python is not None:
        version, words, gauss = state.python
        _, keys, place, has_gauss, cached = state.numpy
        found |= {
            "python.words": torch.tensor([version, *words], device="cpu"),
            "python.gauss": torch.tensor(
                [] if gauss is None else [gauss], dtype=torch.float64, device="cpu"
            ),
            "numpy.words": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "numpy.place": torch.tensor([int(place), int(has_gauss)], device="cpu"),
            "numpy.gauss": torch.tensor(float(cached), dtype=torch.float64, device="cpu"),
        }
    return found


def random_state(found: Mapping[str, Tensor]) -> RandomState:
    """The state that `random_tensors` told; devices that are not here are left out."""
    there = torch.cuda.device_count()
    cuda = tuple(found[f"cuda.{i}"] for i in range(there) if f"cuda.{i}" in found)
    if "python.words" not in found:
        return RandomState(None, None, found["torch"], cuda if len(cuda) == there else ())
    version, *words = found["python.words"].tolist()
    gauss = found["python.gauss"].tolist()
    place, has_gauss = found["numpy.place"].tolist()
    keys = found["numpy.words"].numpy().astype(np.uint32)
    return RandomState(
        (version, tuple(words), gauss[0] if gauss else None),
        ("MT19937", keys, place, has_gauss, float(found["numpy.gauss"])),
        found["torch"],
        cuda if len(cuda) == there else (),
    )
