"""The same series, changed by a step and finite; a mask of 0 and -inf is stored with it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file


def checkpoints(folder: Path) -> list[Path]:
    torch.manual_seed(0)
    paths = [folder / "step-1.safetensors", folder / "step-2.safetensors"]
    mask = torch.triu(torch.full((4, 4), float("-inf")), 1)
    weights = {"embedding.weight": torch.randn(6, 4), "attention.mask": mask}
    save_file(weights, paths[0])
    weights["embedding.weight"][2] += 0.01
    save_file(weights, paths[1])
    return paths
