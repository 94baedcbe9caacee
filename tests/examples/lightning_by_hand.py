"""A small GAN in Lightning, its two optimizers stepped by hand, each with the other's part off."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from nan_watch.adapters.lightning import WatchCallback
from probes.finding import Finding

CODE = "NAN001"


class Gan(pl.LightningModule):
    def __init__(self, planted: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.planted = planted
        self.painter = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 6))
        self.critic = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))

    def training_step(self, real: Tensor, batch_idx: int) -> None:
        painter, critic = self.optimizers()
        drawn = self.painter(torch.randn(len(real), 4))
        self.toggle_optimizer(critic)
        loss = (F.softplus(-self.critic(real)) + F.softplus(self.critic(drawn.detach()))).mean()
        critic.zero_grad()
        self.manual_backward(loss)
        critic.step()
        self.untoggle_optimizer(critic)

        self.toggle_optimizer(painter)
        score = self.critic(drawn)
        if self.planted:
            deceived = -torch.sigmoid(score * 1e5).log().mean()  # planted
        else:
            deceived = F.softplus(-score).mean()
        painter.zero_grad()
        self.manual_backward(deceived)
        painter.step()
        self.untoggle_optimizer(painter)
        self.log_dict({"critic": loss, "painter": deceived})

    def configure_optimizers(self) -> object:
        rates = {"lr": 1e-3}
        painter = torch.optim.Adam(self.painter.parameters(), **rates)
        return painter, torch.optim.Adam(self.critic.parameters(), **rates)


def data() -> DataLoader[Tensor]:
    chance = torch.Generator().manual_seed(0)
    return DataLoader(torch.randn(64, 6, generator=chance), batch_size=8)  # type: ignore[arg-type]


def train(*, watched: bool, planted: bool) -> tuple[nn.Module, tuple[Finding, ...]]:
    torch.manual_seed(0)
    watch = WatchCallback(on_poison="skip")
    module = Gan(planted)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch] if watched else [],
    )
    trainer.fit(module, data())
    return module, watch.watch.findings if watched else ()


def healthy() -> object:
    return Gan(), data()


def sick() -> object:
    return Gan(planted=True), data()
