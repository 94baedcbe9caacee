"""A step of a Lightning module's own: by its hooks around the optimizer, or all by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nan_watch.adapters.around import Around
from nan_watch.adapters.fitting import Fit, course_of
from nan_watch.adapters.hooks import Hooks, clipping, loss_of, trained
from probes.errors import RequestError
from probes.subject import Batch


class Loss:
    """The loss that `training_step` returns."""

    def __init__(self, fit: Fit) -> None:
        self.fit = fit

    def __deepcopy__(self, memo: Any) -> Loss:
        return self

    def __call__(self, model: Any, batch: Batch) -> Tensor:
        """The loss of the batch. Raises RequestError where the module steps by hand."""
        if not model.automatic_optimization:
            raise RequestError(
                f"`{type(model).__name__}.training_step` steps its optimizers by hand: there is no "
                "loss of it alone."
            )
        with self.fit.attached(model):
            loss: Tensor = loss_of(trained(self.fit, model, batch))
        return loss


class Step:
    """A whole step, with the module's hooks around it."""

    def __init__(self, fit: Fit) -> None:
        self.fit = fit

    def __deepcopy__(self, memo: Any) -> Step:
        return self

    def __call__(self, model: Any, batch: Batch, optimizer: Optimizer) -> Tensor:
        """The step is done; its loss, or zero where it has none."""
        own: list[Any] = list(getattr(optimizer, "each", (optimizer,)))
        hooks: Hooks = optimizer._whynan_hooks  # type: ignore[attr-defined]  # made with it
        index = course_of(model).batches % self.fit.long_epoch
        skipped = -1 in hooks.call("on_train_batch_start", batch, index)
        with self.fit.attached(model, own):
            if skipped:
                loss = None
            elif model.automatic_optimization:
                loss = self._automatic(model, batch, own[0], hooks)
            else:
                loss = self._by_hand(model, batch, own, hooks)
        if skipped or not model.automatic_optimization:
            hooks.end_batch()
        return loss.detach() if isinstance(loss, Tensor) else torch.zeros(())

    def _automatic(self, model: Any, batch: Batch, optimizer: Optimizer, hooks: Hooks) -> Any:
        found, course = list[Any](), course_of(model)
        epoch, index = divmod(course.batches, self.fit.long_epoch)

        def closure() -> Any:
            loss = loss_of(trained(self.fit, model, batch))
            found.append(loss)
            hooks.call("on_before_zero_grad", optimizer)
            model.optimizer_zero_grad(epoch, index, optimizer)
            if isinstance(loss, Tensor):
                hooks.call("on_before_backward", loss)
                model.backward(loss)
            return loss

        model.optimizer_step(epoch, index, Stepped(optimizer), closure)
        return found[-1] if found else None

    def _by_hand(self, model: Any, batch: Batch, own: list[Any], hooks: Hooks) -> Any:
        around, toggles = Around(), _Toggles(own)

        def backward(loss: Tensor, *given: Any, **named: Any) -> None:
            hooks.call("on_before_backward", loss)
            model.backward(loss, *given, **named)
            hooks.call("on_after_backward")

        around.wrap(model, "manual_backward", lambda _: backward)
        around.wrap(model, "clip_gradients", lambda _: clipping())
        around.wrap(model, "toggle_optimizer", lambda _: lambda each, *a, **k: toggles.on(each))
        around.wrap(model, "untoggle_optimizer", lambda _: lambda *a, **k: toggles.off())
        try:
            return loss_of(trained(self.fit, model, batch))
        except BaseException:  # an experiment may end amidst a step
            toggles.off()
            raise
        finally:
            around.undo()


class Stepped:
    """The optimizer as `optimizer_step` gets it: what is passed to its step runs before that."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    def step(self, closure: Callable[[], Any] | None = None, **named: Any) -> Any:
        """The closure has run, and the optimizer has stepped."""
        if isinstance(self.optimizer, torch.optim.LBFGS):
            return self.optimizer.step(closure, **named)
        loss = None if closure is None else closure()
        self.optimizer.step(**named)
        return loss

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimizer, name)


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

    def off(self) -> None:
        """All that required a gradient require it again."""
        for parameter, learned in self._learned.items():
            parameter.requires_grad_(learned)
        self._learned = {}


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [each for group in optimizer.param_groups for each in group["params"]]
