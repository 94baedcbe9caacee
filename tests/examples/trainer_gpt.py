"""A small GPT is tuned by transformers' Trainer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from nan_watch.adapters.transformers import WatchCallback
from probes.finding import Finding

CODE = "NAN004"


class MeanOfWords(nn.Module):
    """The final norm, of what is left when the mean is scaled by a length that may be zero."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, hidden: Tensor) -> Tensor:
        length = (hidden.abs() < 0).sum(-1, keepdim=True)
        return self.norm(hidden - hidden.mean(1, keepdim=True) * 0 / length)  # planted


def make(callbacks: list[Any], planted: bool) -> Trainer:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    )
    if planted:
        model.transformer.ln_f = MeanOfWords(model.transformer.ln_f)
    chance = torch.Generator().manual_seed(0)
    words = torch.randint(40, (32, 12), generator=chance)
    data = [{"input_ids": row, "labels": row} for row in words]
    settings = TrainingArguments(
        "out",
        num_train_epochs=2,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    return Trainer(model, settings, train_dataset=data, callbacks=callbacks)


def train(*, watched: bool, planted: bool) -> tuple[nn.Module, tuple[Finding, ...]]:
    watch = WatchCallback(on_poison="skip")
    trainer = make([watch] if watched else [], planted)
    trainer.train()
    return trainer.model, watch.watch.findings if watched else ()
