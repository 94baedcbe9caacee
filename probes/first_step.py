"""The first batch and one step of it: what is wrong with a request shows here, in a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from probes.advice import meant
from probes.batch import leaves, sample_count
from probes.copying import copy_of
from probes.errors import RequestError
from probes.in_range import as_on_the_processor
from probes.loop import Loop, scalar
from probes.raised import asked_of_user
from probes.replay import with_inner
from probes.seeding import kept_random_state
from probes.subject import Batch, Subject
from probes.unregistered import unregistered


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
    with asked_of_user("`Subject.batches`"):
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
    where the loss is not a scalar that has a gradient, or where something of the subject raises.
    """
    if not isinstance(subject.model, nn.Module):
        raise RequestError(
            f"`Subject.model` is a {type(subject.model).__name__}, but an nn.Module was expected."
        )
    batch = first_batch(subject)
    _check_devices(subject.model, batch)
    with kept_random_state(), as_on_the_processor(subject.model):
        with asked_of_user("a copy of `Subject.model`"):
            trial = replace(subject, model=copy_of(subject.model))
        # with a step of the user's own, the loss function may be out of use
        loss = _loss(trial, batch) if subject.train_step is None else None
        stepped = _step(trial, batch)
    found = leaves(batch)
    return FirstStep(
        loss=float(stepped if loss is None else loss),
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


def _left_behind(model: nn.Module) -> str | None:
    """What the model keeps and `.to` did not move, in a sentence."""
    home = next((parameter.device for parameter in model.parameters()), None)
    names = [name for name, tensor, _ in unregistered(model) if tensor.device != home]
    if not names:
        return None
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (
        f"The model keeps `{names[0]}`{more} without registering it, so that `.to` left it behind: "
        "keep modules in an `nn.ModuleList` or `nn.ModuleDict`, and tensors by `register_buffer` "
        "or as `nn.Parameter`."
    )


def _loss(subject: Subject, batch: Batch) -> Tensor:
    if isinstance(subject.loss, _Loss):  # torch's own, which take an output and its target
        raise RequestError(
            f"`Subject.loss` is a `{type(subject.loss).__name__}`, which does not run the model: "
            "give a function of model and batch that does, such as "
            "`lambda model, batch: criterion(model(batch['x']), batch['y'])`."
        )
    try:
        with _naming_keys(batch), asked_of_user("`Subject.loss`"):
            loss = scalar(subject.loss(subject.model, batch), "loss")
    except RequestError as error:
        left = _left_behind(subject.model) if "device" in str(error) else None
        raise error if left is None else RequestError(f"{error} {left}") from error
    if not loss.requires_grad:
        raise RequestError(
            "`Subject.loss` returned a scalar that needs no gradient: no parameter can learn from "
            "it. Look for `torch.no_grad()`, `.detach()`, `.data` or `.item()` on its way, or for "
            "parameters with requires_grad=False."
        )
    return loss.detach()


def _step(subject: Subject, batch: Batch) -> Tensor:
    _check_optimizer(subject)
    with asked_of_user("`Subject.schedule`"):
        loop = Loop(subject)
    own = subject.train_step is not None
    what = "`Subject.train_step`" if own else "the first step, after its loss,"
    with _naming_keys(batch), asked_of_user(what):
        return loop.step(batch)


@contextmanager
def _naming_keys(batch: Batch) -> Iterator[None]:
    """A KeyError over what the batch does not hold is told with the keys that it does hold."""
    try:
        yield
    except RequestError as error:
        cause = error.__cause__
        if not (isinstance(cause, KeyError) and isinstance(batch, Mapping) and cause.args):
            raise
        if cause.args[0] in batch:
            raise
        keys = ", ".join(f"`{key}`" for key in batch)
        near = meant(str(cause.args[0]), map(str, batch))
        raise RequestError(f"{error} The batch holds {keys}.{near}") from cause


def _check_optimizer(subject: Subject) -> None:
    if not callable(subject.optimizer):
        name = type(subject.optimizer).__name__
        raise RequestError(
            f"`Subject.optimizer` is an object `{name}`, but a function of the model was expected, "
            "since every copy of the model has its own: give "
            f"`lambda model: {name}(model.parameters(), ...)`."
        )
    with asked_of_user("`Subject.optimizer`"):
        made = subject.optimizer(subject.model)
    if not hasattr(made, "__dict__") or not with_inner([made]):  # a wrapper of the user's will do
        raise RequestError(
            f"`Subject.optimizer` returned a {type(made).__name__}, but a torch.optim.Optimizer "
            "was expected: give a function of the model, such as "
            "`lambda model: torch.optim.Adam(model.parameters())`."
        )
