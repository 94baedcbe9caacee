"""Code of a trainer's own between the backward pass and the update: hooks, callbacks, overrides."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import starmap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from nan_watch import NanWatch, PoisonedStep
from nan_watch.adapters.standing import Standing
from probes.finding import Finding, Verdict

EMPTY = slice(16, 32)  # samples without a weight

needs_trainer = pytest.mark.skipif(
    find_spec("accelerate") is None, reason="accelerate is not installed: pip install '.[dev]'"
)
needs_lightning = pytest.mark.skipif(
    find_spec("lightning") is None, reason="lightning is not installed: pip install '.[dev]'"
)
by_a_trainer = [needs_trainer, pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def scaled(model: nn.Module, least: float) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.div_(parameter.grad.abs().amax() + least)  # HERE


def demand_named(finding: Finding, step: int) -> None:
    lines = Path(__file__).read_text().splitlines()
    [number] = [i for i, text in enumerate(lines, 1) if text.endswith("# HERE")]
    assert (finding.code, finding.op, finding.source) == (
        "NAN004",
        "aten.div_",
        f"{__file__}:{number}",
    )
    assert (finding.phase, finding.site) == ("backward", "net.0.weight")
    assert (finding.step, finding.confirmed) == (step, True)
    assert "in the code between the backward pass and the update" in finding.message


def rows() -> tuple[Tensor, Tensor]:
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    weight = torch.ones(64)
    weight[EMPTY] = 0.0
    return x, weight


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, x: Tensor, weight: Tensor, labels: Any = None) -> dict[str, Tensor]:
        each = F.cross_entropy(self.net(x), (x[:, 0] > 0).long(), reduction="none")
        return {"loss": (weight * each).mean()}


def test_of_a_step_that_is_handed_over() -> None:
    model, (x, weight) = Net(), rows()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step(batch: dict[str, Tensor]) -> Tensor:
        optimizer.zero_grad()
        loss = model(**batch)["loss"]
        loss.backward()
        scaled(model, 0.0)
        optimizer.step()
        return loss

    def loop() -> None:
        with NanWatch(model, optimizer) as watch:
            for at in range(0, 64, 8):
                batch = {"x": x[at : at + 8], "weight": weight[at : at + 8]}
                watch.step(partial(step, batch), batch=batch)

    with pytest.raises(PoisonedStep) as caught:
        loop()
    demand_named(caught.value.finding, 2)


def lightnings(way: str, least: float) -> type[Any]:
    """A module that scales its gradients, in one of the places that Lightning offers."""
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net, self.calls = Net().net, 0

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return Net.forward(self, *batch)["loss"]  # type: ignore[arg-type]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

        def scale(self) -> None:
            self.calls += 1
            scaled(self, least)

    def backward(self: Any, loss: Tensor) -> None:
        loss.backward()
        self.scale()

    def optimizer_step(self: Any, epoch: int, index: int, optimizer: Any, closure: Any) -> None:
        closure()
        self.scale()
        optimizer.step()

    ways: dict[str, Any] = {
        "on_after_backward": lambda self: self.scale(),
        "on_before_optimizer_step": lambda self, optimizer: self.scale(),
        "configure_gradient_clipping": lambda self, *_, **__: self.scale(),
        "backward": backward,
        "optimizer_step": optimizer_step,
    }
    if way != "callback":
        setattr(Module, way, ways[way])
    return Module


def fitted(way: str, least: float, parts: int, watched: bool = True) -> tuple[Any, Any]:
    import lightning.pytorch as pl

    from nan_watch.adapters.lightning import WatchCallback

    class Scales(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            module.scale()

    module, watch = lightnings(way, least)(), WatchCallback()
    pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        accumulate_grad_batches=parts,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*([watch] if watched else []), *([Scales()] if way == "callback" else [])],
    ).fit(module, DataLoader(TensorDataset(*rows()), batch_size=8))
    return module, watch


WAYS = (
    ("on_after_backward", 2),
    ("on_before_optimizer_step", 1),
    ("configure_gradient_clipping", 2),
    ("backward", 1),
    ("optimizer_step", 2),
    ("callback", 1),
)


@needs_lightning
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("way", "parts"), WAYS)
def test_of_a_lightning_module(way: str, parts: int) -> None:
    with pytest.raises(PoisonedStep) as caught:
        fitted(way, 0.0, parts)
    demand_named(caught.value.finding, 2 // parts)
    bare, _ = fitted(way, 1e-8, parts, watched=False)
    module, watch = fitted(way, 1e-8, parts)
    assert all(f.verdict is Verdict.NOTE for f in watch.watch.findings)
    assert all(map(torch.equal, bare.parameters(), module.parameters()))
    assert module.calls == bare.calls


def trained(way: str, least: float, parts: int) -> Any:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from nan_watch.adapters.transformers import WatchCallback

    class Own(Trainer):
        def _get_train_sampler(self, *_: Any) -> None:
            return None

        def training_step(self, model: nn.Module, *given: Any, **named: Any) -> Tensor:
            loss: Tensor = super().training_step(model, *given, **named)
            if way == "training_step":
                scaled(model, least)
            return loss

    class Scales(TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, model: nn.Module, **__: Any) -> None:
            scaled(model, least)

    settings = TrainingArguments(
        "out",
        max_steps=4,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=parts,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    watch, more = WatchCallback(), [Scales()] if way == "callback" else []
    data = [{"x": x, "weight": weight} for x, weight in zip(*rows(), strict=True)]
    Own(Net(), settings, train_dataset=data, callbacks=[watch, *more]).train()  # type: ignore[arg-type]
    return watch.watch


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(
    "way", [pytest.param(w, marks=by_a_trainer) for w in ("training_step", "callback")]
)
def test_of_a_trainer(way: str, parts: int) -> None:
    with pytest.raises(PoisonedStep) as caught:
        trained(way, 0.0, parts)
    demand_named(caught.value.finding, 2 // parts)
    assert all(f.verdict is Verdict.NOTE for f in trained(way, 1e-8, parts).findings)


@pytest.mark.slow
def test_a_trainer_whose_code_speaks_to_other_processes_is_not_waited_for(
    ranks: Callable[[int, Callable[[int], Any]], list[Any]],
) -> None:
    def work(rank: int) -> Any:
        model, (x, weight) = DistributedDataParallel(Net()), rows()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        heard: list[int] = []

        def passes(batch: Any) -> Tensor:
            loss: Tensor = model(**batch)["loss"]
            loss.backward()
            return loss

        def until(parts: Any) -> None:
            list(starmap(lambda run, batch: run(batch), parts))
            heard.append(1)
            dist.all_reduce(torch.zeros(1))
            heard.append(2)

        standing = Standing(model, optimizer, until, out="run", timeout=30)
        try:
            for at in range(0, 64, 8):
                optimizer.zero_grad()
                standing.part(passes, {"x": x[at : at + 8], "weight": weight[at : at + 8]})
                scaled(model, 0.0)
                optimizer.step()
        except PoisonedStep as refusal:
            standing.end(refusal)
            return [refusal.finding.code, refusal.finding.step, heard]
        return []

    (code, step, heard), (other, _, silent) = ranks(2, work)
    assert (code, step, other) == ("NAN000", 2, "NAN000")
    assert set(heard) == {1}
    assert silent == []
