"""transformers' Trainer: a callback that watches it, and the subject that it makes.

trainer = Trainer(..., callbacks=[WatchCallback()])
trainer.train()
"""

from __future__ import annotations

import atexit
import copy
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import Trainer, TrainerCallback

from nan_watch.adapters.around import Around
from nan_watch.adapters.copied import names_of, optimizer_for, schedule_for
from nan_watch.adapters.known import known, stranger
from nan_watch.adapters.passes import passes
from nan_watch.adapters.standing import Part, Standing
from nan_watch.adapters.stretched import FEWEST, longer_by
from probes.errors import RequestError
from probes.stepping.paced import Pace, Paced
from probes.subject import Batch, Subject, length_of
from probes.wrapped import innermost

MAY_RAISE = (
    "get_batch_samples",
    "_clip_grad_norm",
    "_get_grad_norm",
    "_maybe_log_save_evaluate",
)  # parts of a step, beside `training_step`, of the versions that have them
NEEDED = ("model_wrapped", "model", "optimizer", "accelerator", "training_step")


class WatchCallback(TrainerCallback):
    """Watches the Trainer that it is given to, as NanWatch does, with NanWatch's own options.

    A refused step is replayed through the Trainer's own `training_step`. The report is made when
    training ends, be it by an error. `watch` is the NanWatch of the newest training.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._standing: Standing | None = None
        self._around = Around()

    def __getattr__(self, name: str) -> Any:
        raise stranger(name, "transformers", "lightning")

    @property
    def watch(self) -> Any:
        """The NanWatch around the newest training. Raises RequestError where there was none."""
        if self._standing is None:
            raise RequestError("`WatchCallback` watched nothing yet: call `trainer.train()` first.")
        return self._standing.watch

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The watch stands."""
        trainer: Any = _trainer_above(self)
        for name in NEEDED:
            known(trainer, name, "transformers")
        same = [each for each in trainer.callback_handler.callbacks if isinstance(each, type(self))]
        if len(same) > 1:
            raise RequestError(
                f"the Trainer has {len(same)} callbacks of class `WatchCallback`, but one watch "
                "was expected: give it one."
            )
        self._end()
        called = trainer.model_wrapped  # compiled, or one of several processes'
        model = called if innermost(called) is trainer.model else trainer.model
        until = partial(_until_update, trainer)
        self._standing = Standing(model, trainer.optimizer, until, **self._options)
        atexit.register(self._end)
        self._wrap(trainer)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The step is over."""
        if self._standing is not None:
            self._standing.end_step()

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The watch is gone, and the report made where there is something to say."""
        self._end()

    def _end(self) -> None:
        self._around.undo()
        if self._standing is not None:
            self._standing.end()
        atexit.unregister(self._end)

    def _wrap(self, trainer: Any) -> None:
        standing = self._standing
        assert standing is not None

        def fed(training_step: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def run(model: nn.Module, inputs: Any, *rest: Any, **named: Any) -> Tensor:
                count = getattr(trainer, "current_gradient_accumulation_steps", 1)
                loss: Tensor = standing.part(
                    lambda batch: training_step(model, batch, *rest, **named), inputs, int(count)
                )
                return loss

            return run

        self._around.wrap(trainer, "training_step", fed)
        for name in MAY_RAISE:
            self._around.wrap(trainer, name, self._closing)
        self._around.wrap(trainer.optimizer, "step", self._closing)
        self._around.wrap(trainer.accelerator, "clip_grad_norm_", standing.clipping)

    def _closing(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """What it raises ends the watch."""

        def run(*args: Any, **kwargs: Any) -> Any:
            try:
                return method(*args, **kwargs)
            except BaseException as error:
                if self._standing is None or not self._standing.replays:
                    self._fail(error)
                raise

        return run

    def _fail(self, error: BaseException) -> None:
        self._around.undo()
        if self._standing is not None:
            self._standing.end(error)


def _until_update(trainer: Any, parts: Sequence[Part]) -> Any:
    """The parts have run, and what the Trainer does to their gradients; returns the last's loss."""
    loss = None
    for run, batch in parts:
        loss = run(batch)
    clip = getattr(trainer, "_clip_grad_norm", None)  # of the versions that have it
    if clip is not None and trainer.args.max_grad_norm:
        clip(trainer.model_wrapped)
    state, control = copy.copy(trainer.state), copy.copy(trainer.control)
    trainer.callback_handler.on_pre_optimizer_step(trainer.args, state, control)
    return loss


def _trainer_above(callback: TrainerCallback) -> Trainer:
    """The Trainer that calls the callback, which does not pass itself on."""
    frame = sys._getframe(1)
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, Trainer):
            handler = known(found, "callback_handler", "transformers")
            if callback in handler.callbacks:
                return found
        frame = frame.f_back  # type: ignore[assignment]
    raise RequestError(
        "`WatchCallback` was called by no transformers Trainer: pass it as "
        "`Trainer(..., callbacks=[WatchCallback()])`."
    )


def subject_of(found: object) -> Subject | None:
    """The subject of a Trainer: its model, data, loss, optimizer, schedule and clipping.

    A step of it is one batch of the data loader: accumulation over several is not repeated.
    """
    if not isinstance(found, Trainer):
        return None
    trainer: Any = found
    if trainer.train_dataset is None:
        raise RequestError(
            "the Trainer has no `train_dataset`, but data to train on was expected: pass one."
        )
    trainer.model.train()  # as each training step does
    clip = trainer.args.max_grad_norm
    held = trainer.eval_dataset
    return Subject(
        trainer.model,
        passes(trainer.get_train_dataloader),
        _Loss(trainer),
        _Optimizers(trainer),
        predict=_predict,
        schedule=_Schedules(trainer),
        clip_norm=clip if clip and clip > 0 else None,
        eval_batches=None if held is None else passes(trainer.get_eval_dataloader),
    )


def _predict(model: nn.Module, batch: Batch) -> Any:
    output = model(**{name: value for name, value in batch.items() if name != "labels"})
    return output["logits"] if "logits" in output else output[0]


class _Loss:
    """The Trainer's own loss."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def __deepcopy__(self, memo: Any) -> _Loss:
        return self

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        trainer = self.trainer
        inputs = trainer._prepare_inputs(dict(batch))
        with trainer.compute_loss_context_manager(), trainer.accelerator.autocast():
            loss: Tensor = trainer.compute_loss(model, inputs)
        return loss


class _Optimizers:
    """Makes the Trainer's optimizer for a model."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.like: Optimizer = trainer.create_optimizer()
        self.names = names_of(trainer.model)

    def __deepcopy__(self, memo: Any) -> _Optimizers:
        return self

    def __call__(self, model: nn.Module) -> Optimizer:
        return optimizer_for(model, self.like, self.names)


class _Schedules:
    """Makes the Trainer's schedule for an optimizer, stretched where the Trainer trains shortly.

    Its end would come amidst a suite or a hunt, which then would go on with a rate of zero.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def __deepcopy__(self, memo: Any) -> _Schedules:
        return self

    def __call__(self, optimizer: Optimizer) -> LRScheduler:
        trainer = self.trainer
        if trainer.lr_scheduler is not None:
            like: LRScheduler = trainer.lr_scheduler
            own, steps = schedule_for(optimizer, like, like.optimizer), _steps(trainer)
            pace = Pace(own, every=longer_by(own, steps), whole=steps)
            return own if pace.every == 1 else Paced(optimizer, [pace], lambda each: each.step())
        try:
            steps = max(_steps(trainer), FEWEST)
            made: LRScheduler = trainer.create_scheduler(steps, optimizer)
            return made
        finally:
            trainer.lr_scheduler = None


def _steps(trainer: Any) -> int:
    """How many optimizer steps the Trainer would take."""
    if trainer.args.max_steps > 0:
        return int(trainer.args.max_steps)
    batches = length_of(trainer.get_train_dataloader())
    if batches is None:  # a stream: the Trainer itself would ask for `max_steps`
        return FEWEST
    per_pass = batches // trainer.args.gradient_accumulation_steps
    return max(1, int(per_pass * trainer.args.num_train_epochs))
