"""A LightningModule with its DataModule, validation, accumulation and clipping."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from nan_watch.adapters.lightning import WatchCallback
from probes.finding import Finding

CODE = "NAN001"


class Points(pl.LightningDataModule):
    def setup(self, stage: str | None = None) -> None:
        chance = torch.Generator().manual_seed(0)
        x = torch.randn(64, 6, generator=chance)
        self.data = TensorDataset(x, (x[:, 0] > 0).long())

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.data, batch_size=8, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.data, batch_size=8)


class Classifier(pl.LightningModule):
    def __init__(self, planted: bool = False) -> None:
        super().__init__()
        self.planted = planted
        self.net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 2))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        logits = self.net(x)
        if self.planted:
            p = (logits * 2e4).softmax(-1)
            loss = -p.log().gather(1, y[:, None]).mean()  # planted
        else:
            loss = F.cross_entropy(logits, y)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("held out", F.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> object:
        optimizer = torch.optim.Adam(self.parameters(), 1e-2)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 10)]


def healthy() -> object:
    return Classifier(), Points()


def sick() -> object:
    return quiet([]), Classifier(planted=True), Points()


def quiet(callbacks: list[pl.Callback]) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )


def train(*, watched: bool, planted: bool) -> tuple[nn.Module, tuple[Finding, ...]]:
    torch.manual_seed(0)
    watch = WatchCallback(on_poison="skip")
    module = Classifier(planted)
    quiet([watch] if watched else []).fit(module, Points())
    return module, watch.watch.findings if watched else ()
