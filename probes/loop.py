"""The subject's own training step, one call a step."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from probes.errors import RequestError
from probes.subject import Batch, Subject


class Watching(Protocol):
    """What a loop tells the watch around it; `NanWatch` is one."""

    def backward(self, loss: Tensor) -> None:
        """The backward pass of the loss has run, and the loss is known to the watch."""

    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """The gradients are clipped to the norm; returns the total norm before."""


def scalar(loss: object, field: str) -> Tensor:
    """The loss that a function of the subject's returned. Raises RequestError where it is none."""
    if not isinstance(loss, Tensor):
        raise RequestError(
            f"`Subject.{field}` returned a {type(loss).__name__}, but a scalar tensor was "
            "expected: return the loss itself, not `.item()` or a tuple."
        )
    if loss.numel() != 1 or loss.ndim > 0:
        raise RequestError(
            f"`Subject.{field}` returned a tensor of shape {tuple(loss.shape)}, but a scalar was "
            "expected: reduce it, for example by `.mean()`."
        )
    return loss


class Loop:
    """Trains the subject's model, which it changes, with a fresh optimizer and schedule."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.model = subject.model
        self.optimizer = subject.optimizer(subject.model)
        self.schedule = subject.schedule(self.optimizer) if subject.schedule else None
        if isinstance(self.optimizer, torch.optim.LBFGS) and subject.train_step is None:
            raise RequestError(
                "`Subject.optimizer` is an LBFGS, which computes the loss several times in a "
                "step: write the step yourself as `Subject.train_step`, with its closure, or take "
                "another optimizer, such as AdamW."
            )

    def step(self, batch: Batch, watch: Watching | None = None) -> Tensor:
        """One step of the optimizer is done; returns the loss, () and detached."""
        own = self.subject.train_step
        if own is not None:
            loss = scalar(own(self.model, batch, self.optimizer), "train_step")
        else:
            loss = self._step(batch, watch)
        if self.schedule is not None:
            self.schedule.step()
        return loss.detach()

    def _step(self, batch: Batch, watch: Watching | None) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.subject.loss(self.model, batch)
        if watch is None:
            loss.backward()
        else:
            watch.backward(loss)
        if self.subject.clip_norm is not None:
            self._clip(self.subject.clip_norm, watch)
        self.optimizer.step()
        return loss

    def _clip(self, max_norm: float, watch: Watching | None) -> None:
        if watch is None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)
        else:
            watch.clip_grad_norm_(max_norm)
