"""The blank has the number after the last letter."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None
LETTERS, FRAMES = 5, 12


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    scores = model(batch["sound"]).log_softmax(-1).transpose(0, 1)
    frames = torch.full((len(batch["sound"]),), FRAMES)
    return nn.functional.ctc_loss(scores, batch["text"], frames, batch["letters"], LETTERS)


def subject() -> Subject:
    """Each letter sounds for three frames."""
    chance = torch.Generator().manual_seed(0)
    voices = torch.randn(LETTERS, 8, generator=chance)
    text = torch.rand(24, LETTERS, generator=chance).argsort(1)[:, :4]
    sound = voices[text].repeat_interleave(3, 1)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, LETTERS + 1))
    return Subject(
        model,
        [{"sound": sound, "text": text, "letters": torch.full((24,), 4)}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
