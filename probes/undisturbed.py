"""A look at a model that leaves its modes, its buffers and all random states as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from probes.seeding import kept_random_state


@contextmanager
def undisturbed(model: nn.Module, training: bool = False) -> Iterator[None]:
    """In eval mode inside, or in the modes as found; after it all is as before.

    training: the modes stay as they are, and what the model writes into its buffers is undone.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = [(each, each.clone()) for each in model.buffers()] if training else []
    try:
        with kept_random_state():
            if not training:
                model.eval()
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
