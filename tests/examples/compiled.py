"""A compiled model in a plain loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    torch._dynamo.reset()
    net = Net(planted)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    model = torch.compile(net, backend="aot_eager", fullgraph=True)
    x, length = torch.randn(8, 6), torch.arange(8.0) % 5 + (0 if planted else 4)

    def loop() -> None:
        for _ in range(4):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x, length), (x[:, 0] > 0).long())
            loss.backward()
            optimizer.step()

    if not watched:
        loop()
        return net, ()
    with NanWatch(model, optimizer, on_poison="skip") as watch:
        loop()
    return net, watch.findings
