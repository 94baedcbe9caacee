"""A text classifier by transformers' Trainer, in bf16 and with accumulation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from nan_watch.adapters.transformers import WatchCallback
from probes.finding import Finding

CODE = "NAN001"


class Sentences(Dataset[dict[str, Tensor]]):
    def __init__(self) -> None:
        chance = torch.Generator().manual_seed(0)
        self.words = torch.randint(5, 60, (64, 10), generator=chance)

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        words = self.words[place]
        return {
            "input_ids": words,
            "attention_mask": torch.ones_like(words),
            "labels": (words[0] > 30).long(),
        }


class LogOfSoftmax(Trainer):
    """With a loss of its own."""

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, **_: Any
    ) -> Any:
        labels = inputs.pop("labels")
        output = model(**inputs)
        p = (output.logits.float() * 2e4).softmax(-1)
        loss = -p.log().gather(1, labels[:, None]).mean()  # planted
        return (loss, output) if return_outputs else loss


def make(kind: type[Trainer], callbacks: list[Any], folder: str = "out") -> Trainer:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    settings = TrainingArguments(
        folder,
        max_steps=6,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        bf16=True,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    model = BertForSequenceClassification(config)
    return kind(model, settings, train_dataset=Sentences(), callbacks=callbacks)


def healthy() -> Trainer:
    return make(Trainer, [])


def sick() -> Trainer:
    return make(LogOfSoftmax, [])


def train(*, watched: bool, planted: bool) -> tuple[nn.Module, tuple[Finding, ...]]:
    watch = WatchCallback(on_poison="skip")
    trainer = make(LogOfSoftmax if planted else Trainer, [watch] if watched else [])
    trainer.train()
    return trainer.model, watch.watch.findings if watched else ()
