"""The hooks of a Lightning module and of the user's callbacks, called where a fit calls them."""

from __future__ import annotations

import copy
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from inspect import Parameter, signature
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from nan_watch.adapters.fitting import Fit, course_of
from nan_watch.adapters.installed import overrides, pl
from probes.raised import said
from probes.subject import Batch

TRANSFERS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
AROUND_STEP = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "optimizer_zero_grad",
    "on_before_backward",
    "backward",
    "optimizer_step",
)  # which a step of whynan's own would not call
CLIPS = "configure_gradient_clipping"


class Hooks:
    """Calls a hook of each callback, and then the module's own, as a fit does.

    fit: what the fit is made of. module: one copy of the module, which has the callbacks' own
    copies with it, because they may count.
    """

    def __init__(self, fit: Fit, module: Any) -> None:
        self.fit, self.module = fit, module
        self.callbacks = [_copy(each) for each in fit.callbacks]

    def call(self, name: str, *given: Any) -> list[Any]:
        """What they returned."""
        if not self.has(name):
            return []
        with self.fit.attached(self.module) as trainer:
            told = [getattr(c, name)(trainer, self.module, *given) for c in self._with(name)]
            if overrides(self.module, name):
                told.append(getattr(self.module, name)(*given))
        return told

    def keep_books(self, *names: str) -> None:
        """The hooks have run as far as they do without a Trainer; what they print is left out."""
        for name in names:
            try:
                with redirect_stdout(io.StringIO()):
                    self.call(name)
            except Exception as error:
                self._tell(name, error)

    def _tell(self, name: str, error: Exception) -> None:
        if name not in self.fit.untold:
            self.fit.untold.add(name)
            print(
                f"whynan: `{name}` raised {said(error)}, and is left out of the diagnosis",
                file=sys.stderr,
            )

    def has(self, *names: str) -> bool:
        """Whether one of these hooks does anything."""
        return overrides(self.module, *names) or any(self._with(name) for name in names)

    def _with(self, name: str) -> list[Any]:
        plain = getattr(pl.Callback, name, None)
        return [c for c in self.callbacks if getattr(type(c), name, None) is not plain]

    def end_batch(self) -> None:
        """A batch is over, and with the last of an epoch the epoch as well."""
        returned, batch = self.fit.seen
        course, epoch = course_of(self.module), self.fit.long_epoch
        self.call("on_train_batch_end", returned, batch, course.batches % epoch)
        course.batches += 1
        if course.batches % epoch == 0:
            course.batches -= 1  # it still is the epoch that ends
            self.end_epoch()

    def end_epoch(self) -> None:
        """The epoch at work is over, and the next one begins."""
        course, epoch = course_of(self.module), self.fit.long_epoch
        self.keep_books("on_train_epoch_end")
        course.batches = (course.batches // epoch + 1) * epoch
        self.keep_books("on_train_epoch_start")

    def around(self, optimizers: Sequence[Optimizer]) -> None:
        """These optimizers call the hooks that stand around their steps, and are counted."""
        automatic = self.module.automatic_optimization
        for optimizer in optimizers:
            if automatic and self.has("on_after_backward"):
                optimizer.register_step_pre_hook(lambda *_: self._said("on_after_backward"))
            if self.has("on_before_optimizer_step"):
                optimizer.register_step_pre_hook(
                    lambda optimizer, *_: self._said("on_before_optimizer_step", optimizer)
                )
            if automatic and self._clips():
                optimizer.register_step_pre_hook(lambda optimizer, *_: self._clip(optimizer))
            optimizer.register_step_post_hook(lambda *_: self._stepped(automatic))

    def _said(self, name: str, *given: Any) -> None:
        self.call(name, *given)

    def _stepped(self, automatic: bool) -> None:
        course_of(self.module).steps += 1
        if automatic:
            self.end_batch()

    def _clips(self) -> bool:
        return clips_by_hand(self.fit, self.module)

    def _clip(self, optimizer: Optimizer) -> None:
        trainer = self.fit.trainer
        value = getattr(trainer, "gradient_clip_val", None)
        way = getattr(trainer, "gradient_clip_algorithm", None)
        clip = clipping(value, way)
        self.module.clip_gradients = clip
        try:
            if overrides(self.module, CLIPS):
                self.call_clipping(optimizer, value, way)
            else:
                clip(optimizer)
        finally:
            vars(self.module).pop("clip_gradients", None)

    def call_clipping(self, optimizer: Optimizer, value: Any, way: Any) -> None:
        """The module's own clipping has run."""
        with self.fit.attached(self.module):
            self.module.configure_gradient_clipping(
                optimizer, gradient_clip_val=value, gradient_clip_algorithm=way
            )


def _copy(callback: Any) -> Any:
    with suppress(Exception):
        return copy.deepcopy(callback)
    return callback


def clips_by_hand(fit: Fit, module: Any) -> bool:
    """Whether gradients are clipped otherwise than to their norm by the Trainer."""
    way = getattr(fit.trainer, "gradient_clip_algorithm", None)
    return overrides(module, CLIPS) or str(getattr(way, "value", way)) == "value"


def clipping(given: float | None = None, by: Any = None) -> Callable[..., None]:
    """The module's own `clip_gradients`, without a Trainer but with its settings."""

    def clip(
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: Any = None,
    ) -> None:
        value = given if gradient_clip_val is None else gradient_clip_val
        way = by if gradient_clip_algorithm is None else gradient_clip_algorithm
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if value and str(getattr(way, "value", way)) == "value":
            nn.utils.clip_grad_value_(parameters, value)
        elif value:
            nn.utils.clip_grad_norm_(parameters, value)

    return clip


def transferred(fit: Fit, module: Any, batch: Batch) -> Batch:
    """The batch as the hooks around its transfer make it, such as an augmentation on the device."""
    for name in TRANSFERS:
        owner = _owner(fit, module, name)
        if owner is None:
            continue
        given = (batch, module.device, 0) if name == "transfer_batch_to_device" else (batch, 0)
        batch = getattr(owner, name)(*given)
    return batch


def _owner(fit: Fit, module: Any, name: str) -> Any:
    plain = getattr(pl.LightningDataModule, name, None)
    if fit.data is not None and getattr(type(fit.data), name, None) is not plain:
        return fit.data
    return module if overrides(module, name) else None


def arguments(module: Any, batch: Batch, index: int) -> tuple[Any, ...]:
    """What `training_step` is called with."""
    takes = list(signature(module.training_step).parameters.values())
    both = len(takes) > 1 or takes[0].kind is Parameter.VAR_POSITIONAL
    return (batch, index) if both else (batch,)


def loss_of(outputs: object) -> Any:
    """What a training step returned, or that of its parts which is the loss."""
    return outputs.get("loss") if isinstance(outputs, Mapping) else outputs


def trained(fit: Fit, module: Any, batch: Batch) -> Any:
    """What `training_step` makes of the batch, in the Trainer's precision; noted for the hooks."""
    precision = getattr(fit.trainer, "precision_plugin", None)
    index = course_of(module).batches % fit.long_epoch
    if precision is not None:
        batch = precision.convert_input(batch)
    batch = transferred(fit, module, batch)
    if precision is None:
        returned = module.training_step(*arguments(module, batch, index))
    else:
        with precision.train_step_context():
            returned = module.training_step(*arguments(module, batch, index))
    fit.seen = (_let_go(returned), batch)
    return returned


def _let_go(returned: Any) -> Any:
    """Without the graph, as the hooks after the step see it."""
    if isinstance(returned, Tensor):
        return {"loss": returned.detach()}
    if isinstance(returned, Mapping):
        return {n: v.detach() if isinstance(v, Tensor) else v for n, v in returned.items()}
    return returned
