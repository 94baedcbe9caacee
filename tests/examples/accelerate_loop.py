"""A loop with Accelerate: prepared model, optimizer, schedule and data, and accumulation."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from nan_watch import NanWatch
from probes.finding import Finding

CODE = "NAN004"


class Net(nn.Module):
    def __init__(self, planted: bool) -> None:
        super().__init__()
        self.planted = planted
        self.inner, self.head = nn.Linear(6, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        hidden = self.inner(x).tanh()
        if self.planted:
            hidden = hidden * 0 / (length - 3)[:, None]  # planted
        return self.head(hidden)


def train(*, watched: bool, planted: bool) -> tuple[nn.Module, tuple[Finding, ...]]:
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, mixed_precision="bf16")
    x = torch.randn(64, 6)
    lengths = torch.arange(64).float() % 5 + (0 if planted else 4)
    data = DataLoader(TensorDataset(x, lengths, (x[:, 0] > 0).long()), batch_size=8, shuffle=True)
    model = Net(planted)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    model, optimizer, data, schedule = accelerator.prepare(model, optimizer, data, schedule)

    def loop() -> None:
        for x, length, y in data:
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(x, length), y)
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()

    if not watched:
        loop()
        return model, ()
    with NanWatch(model, optimizer, on_poison="skip") as watch:
        loop()
    return model, watch.findings
