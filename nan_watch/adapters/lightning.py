"""Lightning: a callback that watches `fit`, and the subject of a module with its data.

trainer = Trainer(..., callbacks=[WatchCallback()])
trainer.fit(module, datamodule)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nan_watch.adapters.around import Around
from nan_watch.adapters.known import known, stranger
from nan_watch.adapters.passes import passes
from nan_watch.adapters.standing import Standing
from nan_watch.adapters.together import together
from probes.errors import RequestError
from probes.subject import Batch, Subject

if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
    import pytorch_lightning as pl
else:
    import lightning.pytorch as pl  # type: ignore[no-redef]

FRAMEWORK = pl.__name__.partition(".")[0]  # as it is installed
LOGGING = ("log", "log_dict")


class WatchCallback(pl.Callback):
    """Watches `trainer.fit`, as NanWatch does, with NanWatch's own options.

    A refused step is replayed through the module's own `training_step`. The report is made when
    fitting ends, be it by an error. `watch` is the NanWatch of the newest fit.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._standing: Standing | None = None
        self._steps = 0

    def __getattr__(self, name: str) -> Any:
        raise stranger(name, "lightning", "transformers")

    @property
    def watch(self) -> Any:
        """The NanWatch around the newest fit. Raises RequestError where there was none."""
        if self._standing is None:
            raise RequestError(
                "`WatchCallback` watched nothing yet: call `trainer.fit(...)` first."
            )
        return self._standing.watch

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The watch stands."""
        same = [each for each in trainer.callbacks if isinstance(each, type(self))]
        if len(same) > 1:
            raise RequestError(
                f"the Trainer has {len(same)} callbacks of class `WatchCallback`, but one watch "
                "was expected: give it one."
            )
        optimizers = known(trainer, "optimizers", FRAMEWORK)
        self._standing = Standing(pl_module, together(optimizers), **self._options)
        self._steps = self._standing.watch.steps

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """A part of a step begins."""
        if self._standing is not None:
            parts = 1
            if pl_module.automatic_optimization:
                parts = known(trainer, "accumulate_grad_batches", FRAMEWORK)
            self._standing.note_part(_Again(trainer, pl_module, batch_idx, parts), batch, parts)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The part is over, and the step with it where an optimizer stepped."""
        standing = self._standing
        if standing is not None:
            standing.watch.note_loss(_loss_of(outputs))
            if standing.watch.steps > self._steps:
                self._steps = standing.watch.steps
                standing.end_step()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """The watch is gone, and the report made where there is something to say."""
        if self._standing is not None:
            self._standing.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The watch is gone. Raises PoisonedStep where it explains the exception."""
        if self._standing is not None:
            self._standing.end(exception)


def _loss_of(outputs: object) -> Any:
    """What a training step returned, or that of its parts which is the loss."""
    return outputs.get("loss") if isinstance(outputs, Mapping) else outputs


class _Again:
    """A batch's forward and backward pass, which `training_step` makes; nothing is logged."""

    def __init__(self, trainer: Any, module: Any, index: int, parts: int) -> None:
        self.trainer, self.module, self.index, self.parts = trainer, module, index, parts

    def __call__(self, batch: Batch) -> Any:
        trainer, module = self.trainer, self.module
        with _unlogged(module), _uncounted(trainer):
            given = _arguments(module, batch, self.index)
            loss = _loss_of(known(trainer, "strategy", FRAMEWORK).training_step(*given))
            if module.automatic_optimization and isinstance(loss, Tensor):
                scaler = getattr(trainer.precision_plugin, "scaler", None)
                scaled = loss / self.parts if self.parts > 1 else loss
                (scaled if scaler is None else scaler.scale(scaled)).backward()
        return loss if isinstance(loss, Tensor) else torch.zeros(())


def _arguments(module: Any, batch: Batch, index: int) -> tuple[Any, ...]:
    takes = list(signature(module.training_step).parameters.values())
    both = len(takes) > 1 or takes[0].kind is Parameter.VAR_POSITIONAL
    return (batch, index) if both else (batch,)


@contextmanager
def _unlogged(module: Any) -> Iterator[None]:
    """What the module logs goes nowhere."""
    around = Around()
    for name in LOGGING:
        around.wrap(module, name, lambda _: lambda *args, **kwargs: None)
    try:
        yield
    finally:
        around.undo()


@contextmanager
def _uncounted(trainer: Any) -> Iterator[None]:
    """Optimizers that the module steps by hand are not counted by the trainer."""
    with ExitStack() as stack:
        for each in getattr(trainer.strategy, "_lightning_optimizers", ()):
            around = Around()
            for name in ("_on_before_step", "_on_after_step"):
                around.wrap(each, name, lambda _: lambda: None)
            stack.callback(around.undo)
        yield


def subject_of(found: object) -> Subject | None:
    """The subject of a LightningModule and its data, alone or with a Trainer beside them.

    found: a tuple of the module, a DataModule or a data loader, and maybe a Trainer; or a module
    that has a `train_dataloader` of its own. Manual optimization is the module's own step.
    """
    parts = found if isinstance(found, tuple) else (found,)
    module = next((each for each in parts if isinstance(each, pl.LightningModule)), None)
    if module is None:
        return None
    trainer = next((each for each in parts if isinstance(each, pl.Trainer)), None)
    others = [each for each in parts if each is not module and each is not trainer]
    module.train()
    batches = passes(_loader(module, others))  # first, because it sets the data up
    automatic = module.automatic_optimization
    return Subject(
        module,
        batches,
        _loss,
        _optimizer,
        train_step=None if automatic else _manual,
        schedule=_schedule if _settings(module)[1] and automatic else None,
        clip_norm=None if trainer is None else trainer.gradient_clip_val,
        eval_batches=_held_out(module, others),
    )


def _loader(module: Any, others: Sequence[Any]) -> Callable[[], Iterable[Batch]]:
    for each in others:
        if isinstance(each, pl.LightningDataModule):
            each.prepare_data()
            each.setup("fit")
            return each.train_dataloader
        if isinstance(each, Iterable):
            return lambda: each
    if "train_dataloader" not in vars(type(module)):
        raise RequestError(
            f"`{type(module).__name__}` has no data: return the module together with its "
            "DataModule or data loader, as `return module, datamodule`."
        )
    return module.train_dataloader  # type: ignore[no-any-return]


def _held_out(module: Any, others: Sequence[Any]) -> Iterable[Batch] | None:
    for each in (*others, module):
        if "val_dataloader" in vars(type(each)):
            return passes(each.val_dataloader)
    return None


def _loss(model: Any, batch: Batch) -> Tensor:
    with _unlogged(model):
        loss: Tensor = _loss_of(model.training_step(*_arguments(model, batch, 0)))
    return loss


def _settings(module: Any) -> tuple[list[Optimizer], list[Any]]:
    """Optimizers and schedules, as `configure_optimizers` tells them in one of its many forms."""
    made = module.configure_optimizers()
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], (list, tuple)):
        return list(made[0]), list(made[1])
    several = list(made) if isinstance(made, (list, tuple)) else [made]
    optimizers = [each["optimizer"] if isinstance(each, Mapping) else each for each in several]
    schedules = [
        each["lr_scheduler"]
        for each in several
        if isinstance(each, Mapping) and "lr_scheduler" in each
    ]
    return [each for each in optimizers if each is not None], schedules


def _optimizer(model: nn.Module) -> Optimizer:
    optimizers, schedules = _settings(model)
    if not optimizers:
        raise RequestError(
            "`configure_optimizers` returned no optimizer, but one was expected: return a "
            "torch.optim.Optimizer."
        )
    made = together(optimizers)
    made._whynan_schedules = schedules  # type: ignore[attr-defined]  # made with it, for it
    return made


def _schedule(optimizer: Optimizer) -> LRScheduler:
    first = optimizer._whynan_schedules[0]  # type: ignore[attr-defined]
    schedule: LRScheduler = first["scheduler"] if isinstance(first, Mapping) else first
    return schedule


def _manual(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    """A step by the module's own hand, with these optimizers for its own."""
    own: list[Any] = list(getattr(optimizer, "each", (optimizer,)))
    around = Around()
    around.wrap(model, "optimizers", lambda _: lambda *a, **k: own[0] if len(own) == 1 else own)
    around.wrap(model, "manual_backward", lambda _: lambda loss, *a, **k: loss.backward(*a, **k))
    around.wrap(model, "lr_schedulers", lambda _: lambda: None)
    around.wrap(model, "clip_gradients", lambda _: _clip)
    toggles = _Toggles(own)
    around.wrap(model, "toggle_optimizer", lambda _: lambda each: toggles.on(each))
    around.wrap(model, "untoggle_optimizer", lambda _: lambda each: toggles.off(each))
    try:
        loss = _loss(model, batch)
    finally:
        around.undo()
    return loss if isinstance(loss, Tensor) else torch.zeros(())


def _clip(
    optimizer: Optimizer,
    gradient_clip_val: float | None = None,
    gradient_clip_algorithm: str | None = None,
) -> None:
    """The optimizer's gradients are clipped, as by the module's own call without a trainer's."""
    parameters = _parameters(optimizer)
    if gradient_clip_val and gradient_clip_algorithm == "value":
        nn.utils.clip_grad_value_(parameters, gradient_clip_val)
    elif gradient_clip_val:
        nn.utils.clip_grad_norm_(parameters, gradient_clip_val)


class _Toggles:
    """Lets the parameters of one optimizer alone learn, as a module asks its trainer to."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers = optimizers
        self._learned: dict[nn.Parameter, bool] = {}

    def on(self, optimizer: Optimizer) -> None:
        """Only this one's parameters require a gradient, if they did."""
        mine = set(_parameters(optimizer))
        self._learned = {p: p.requires_grad for each in self._optimizers for p in _parameters(each)}
        for parameter, learned in self._learned.items():
            parameter.requires_grad_(learned and parameter in mine)

    def off(self, _: Optimizer) -> None:
        """All that required a gradient require it again."""
        for parameter, learned in self._learned.items():
            parameter.requires_grad_(learned)
        self._learned = {}


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [each for group in optimizer.param_groups for each in group["params"]]
