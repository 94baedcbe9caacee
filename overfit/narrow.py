"""The layer that leaves the least room."""

from __future__ import annotations

from typing import Any

from torch import nn


def narrowest(model: nn.Module) -> dict[str, Any]:
    """The layer with the fewest outputs, the last one left out."""
    layers = [
        (name, int(width))
        for name, module in model.named_modules()
        for width in [getattr(module, "out_features", getattr(module, "out_channels", None))]
        if isinstance(width, int)
    ]
    if len(layers) < 2:
        return {}
    name, width = min(layers[:-1], key=lambda each: each[1])
    return {"narrow": name, "width": width}
