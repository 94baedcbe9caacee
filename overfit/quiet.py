"""The same training again with nothing left to chance: draws at their mean, or always the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from overfit.heads import Heads
from overfit.settled import kept
from probes.loop import Loop
from probes.raised import source_here
from probes.seeding import kept_random_state, seed_everything
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed

EACH = 25  # steps from one look at the accuracies to the next


@dataclass(frozen=True, slots=True)
class Quiet:
    """What so many steps came to with nothing left to chance: the mean loss of the last pass.

    right: the share that the worst head has right; None where nothing is counted. sources: the
    user's own lines that draw numbers in a step.
    """

    steps: int
    loss: float
    right: float | None = None
    sources: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """What it came to, as part of a sentence."""
        share = None if self.right is None else "all" if self.right >= 1 else f"{self.right:.0%}"
        right = "" if share is None else f", {share} of them right"
        return (
            "the same training from the same weights, with every number that is drawn held at its "
            f"mean, comes to a loss of {self.loss:.4g} in {self.steps} steps{right}"
        )


class _Expected(TorchDispatchMode):
    """Normal numbers are their mean, uniform ones the middle, and dropout keeps everything.

    What is drawn by lot (`randint`, `randperm`, `multinomial`) is drawn as ever.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sources: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        name = func.overloadpacket.__name__
        if name == "native_dropout":
            self._note()
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        made = func(*args, **given)
        if name in _MEANS and isinstance(made, Tensor) and made.is_floating_point():
            self._note()
            made.copy_(torch.as_tensor(_MEANS[name](args, given), device=made.device))
        return made

    def _note(self) -> None:
        if (source := source_here()) is not None:
            self.sources[source] = None


def _normal(args: Sequence[Any], given: Mapping[str, Any]) -> Any:
    at = 1 if isinstance(args[0], Tensor) and "mean" not in given else 0
    return given.get("mean", args[at] if len(args) > at else 0.0)


def _given(args: Sequence[Any], given: Mapping[str, Any]) -> Any:
    return given.get("mean", args[0] if args else 0.0)


def _uniform(args: Sequence[Any], given: Mapping[str, Any]) -> Any:
    low = given.get("from", args[1] if len(args) > 1 else 0.0)
    return (low + given.get("to", args[2] if len(args) > 2 else 1.0)) / 2


def _chance(args: Sequence[Any], given: Mapping[str, Any]) -> Any:
    return given.get("p", args[1] if len(args) > 1 else args[0])


def _zero(args: Sequence[Any], given: Mapping[str, Any]) -> float:
    return 0.0


def _half(args: Sequence[Any], given: Mapping[str, Any]) -> float:
    return 0.5


_MEANS: Mapping[str, Callable[[Sequence[Any], Mapping[str, Any]], Any]] = {
    **dict.fromkeys(("randn", "randn_like"), _zero),
    **dict.fromkeys(("rand", "rand_like"), _half),
    "normal": _given,
    "normal_": _normal,
    "uniform_": _uniform,
    "bernoulli": _chance,
    "bernoulli_": _chance,
}


def quiet(
    subject: Subject, batches: Sequence[Batch], began: Mapping[str, Tensor], steps: int
) -> Quiet:
    """What so many steps come to from the weights it began with, with nothing drawn at random.

    By the subject's own optimizer and schedule; the model is as it was afterwards.
    """
    with _from(subject, began), _Expected() as expected:
        found = _trained(subject, batches, steps)
    return replace(found, sources=tuple(expected.sources))


def same_draws(
    subject: Subject, batches: Sequence[Batch], began: Mapping[str, Tensor], steps: int
) -> Quiet:
    """The same where every pass over the samples draws what the first one did.

    So it is asked whether a loss can be learned whose targets are drawn, as a denoiser's are.
    """
    with _from(subject, began):
        return _trained(subject, batches, steps, again=True)


@contextmanager
def _from(subject: Subject, began: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the model has these weights and may be trained; afterwards it is as it was."""
    model, now = subject.model, kept(subject)
    try:
        model.load_state_dict(dict(began))
        with undisturbed(model, training=True), kept_random_state():
            seed_everything(0)
            yield
    finally:
        model.load_state_dict(now)
        model.zero_grad(set_to_none=True)


def _trained(subject: Subject, batches: Sequence[Batch], steps: int, again: bool = False) -> Quiet:
    loop, heads, losses = Loop(subject), Heads(subject, batches), []
    for step in range(1, steps + 1):
        if again:
            seed_everything((step - 1) % len(batches))
        losses.append(float(loop.step(batches[(step - 1) % len(batches)], None)))
        if step % EACH and step < steps:
            continue
        look = heads.evaluate()
        if look.perfect:
            break
    shares = [look.hits[name] / count for name, count in look.counts.items() if count > 0]
    return Quiet(len(losses), fmean(losses[-len(batches) :]), min(shares, default=None))
