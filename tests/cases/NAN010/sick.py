"""A row of an embedding and the optimizer's average of it are NaN in the second checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

PLANTED = {"site": "embedding.weight"}


def checkpoints(folder: Path) -> list[Path]:
    torch.manual_seed(0)
    paths = [folder / "step-1.safetensors", folder / "step-2.safetensors"]
    weights = {"embedding.weight": torch.randn(6, 4), "head.bias": torch.randn(4)}
    save_file(weights, paths[0])
    weights["embedding.weight"][2] = float("nan")
    save_file(weights, paths[1])
    return paths
