"""The first batch and one step of it: what is wrong with a request shows here, in a sentence."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from probes.batch import leaves, sample_count
from probes.errors import RequestError
from probes.loop import Loop
from probes.seeding import kept_random_state
from probes.subject import Batch, Subject


@dataclass(frozen=True, slots=True)
class FirstStep:
    """What one step on a copy of the model showed.

    loss: the first batch's loss. samples: how many samples the batch holds, None where it cannot
    be cut. shapes: leaf path to shape. parameters: number of trainable scalars.
    """

    loss: float
    samples: int | None
    shapes: Mapping[str, tuple[int, ...]]
    parameters: int


def first_batch(subject: Subject) -> Batch:
    """The first of the subject's batches. Raises RequestError where there is none."""
    try:
        iterator = iter(subject.batches)
    except TypeError:
        raise RequestError(
            f"`Subject.batches` is a {type(subject.batches).__name__}, which cannot be iterated "
            "over: give a list of batches or a DataLoader."
        ) from None
    for batch in iterator:
        return batch
    raise RequestError(
        "`Subject.batches` holds no batch: give at least one, and where it is a generator, a "
        "list or a DataLoader, which can be read again."
    )


def check_first_step(subject: Subject) -> FirstStep:
    """The first batch was found to be sound, and one step on a copy of the model has run.

    The subject's own model is as it was, and so are the random states.
    Raises RequestError where there is no batch, where model and batch lie on different devices,
    where the optimizer cannot be made, or where the loss is not a scalar that has a gradient.
    """
    if not isinstance(subject.model, nn.Module):
        raise RequestError(
            f"`Subject.model` is a {type(subject.model).__name__}, but an nn.Module was expected."
        )
    batch = first_batch(subject)
    _check_devices(subject.model, batch)
    with kept_random_state():
        trial = replace(subject, model=copy.deepcopy(subject.model))
        loss = _loss(trial, batch)
        _step(trial, batch)
    found = leaves(batch)
    return FirstStep(
        loss=float(loss),
        samples=sample_count(batch, subject.layout),
        shapes={path: tuple(leaf.shape) for path, leaf in found.items() if _is_tensor(leaf)},
        parameters=sum(p.numel() for p in subject.model.parameters() if p.requires_grad),
    )


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, Tensor)


def _check_devices(model: nn.Module, batch: Batch) -> None:
    homes = {parameter.device for parameter in model.parameters()}
    if len(homes) != 1:  # none at all, or a model that is spread over devices on purpose
        return
    home = homes.pop()
    for path, leaf in leaves(batch).items():
        # 0-d tensors mix with any device, and the lengths of packed sequences stay on the CPU
        if _is_tensor(leaf) and leaf.ndim > 1 and leaf.device != home:
            raise RequestError(
                f"`{path or 'batch'}` of the first batch is on {leaf.device}, but the model's "
                f"parameters are on {home}: move the batch to the model's device, or run with "
                f"`--device {home.type}`, which moves both."
            )


def _loss(subject: Subject, batch: Batch) -> Tensor:
    if subject.train_step is not None:  # the loss function may be out of use then
        return torch.zeros(())
    loss = subject.loss(subject.model, batch)
    if not isinstance(loss, Tensor):
        raise RequestError(
            f"`Subject.loss` returned a {type(loss).__name__}, but a scalar tensor was expected: "
            "return the loss itself, not `.item()` or a tuple."
        )
    if loss.numel() != 1 or loss.ndim > 0:
        raise RequestError(
            f"`Subject.loss` returned a tensor of shape {tuple(loss.shape)}, but a scalar was "
            "expected: reduce it, for example by `.mean()`."
        )
    if not loss.requires_grad:
        raise RequestError(
            "`Subject.loss` returned a scalar that needs no gradient: no parameter can learn from "
            "it. Look for `torch.no_grad()`, `.detach()`, `.data` or `.item()` on its way, or for "
            "parameters with requires_grad=False."
        )
    return loss.detach()


def _step(subject: Subject, batch: Batch) -> None:
    try:
        loop = Loop(subject)
    except ValueError as error:  # torch: "optimizer got an empty parameter list"
        raise RequestError(f"`Subject.optimizer` could not be made: {error}.") from error
    if not isinstance(loop.optimizer, torch.optim.Optimizer):
        raise RequestError(
            f"`Subject.optimizer` returned a {type(loop.optimizer).__name__}, but a "
            "torch.optim.Optimizer was expected: give a function of the model, such as "
            "`lambda model: torch.optim.Adam(model.parameters())`."
        )
    loop.step(batch)
