"""The optimizers that step, and whether there is anything for them to step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from torch import nn
from torch.compiler import is_compiling
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

if TYPE_CHECKING:
    from nan_watch.watch import NanWatch


class Steppers:
    """Counts while it is open the steps of optimizers that are not watched and train the model.

    watched: the optimizer that is, and those inside of it. asleep: whether steps are of no
    interest now, as those of a replay.
    """

    def __init__(
        self, model: nn.Module, watched: Sequence[Optimizer], asleep: Callable[[], bool]
    ) -> None:
        self._model = model
        self._watched = watched
        self._asleep = asleep
        self._others: Counter[str] = Counter()
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        """Every optimizer's steps are seen."""
        self._hooks.append(register_optimizer_step_post_hook(self._note))
        return self

    def __exit__(self, *_: object) -> None:
        """Our hook is off."""
        while self._hooks:
            self._hooks.pop().remove()

    def tell(self, watch: NanWatch) -> None:
        """The record's settings hold what became of the parameters, and of the steps."""
        watch.recorder.note(
            parameters=watch._parameters.facts_at_end(),
            optimizer=self._facts(watch),
            times_zero=watch._roots.zeroed.names(watch._norms.named),
            **watch.scalers.facts(),
        )

    def _facts(self, watch: NanWatch) -> Mapping[str, Any]:
        """What the watched optimizer did since the watch began.

        `steps` that it was asked to take, and those in which any parameter had a gradient; `calls`
        of the model since its last step, where a gradient came back; `others` that stepped.
        """
        own = [each for each in self._watched if not _holds_another(each)]
        return {
            "name": " and ".join(dict.fromkeys(type(each).__name__ for each in own)),
            "needs_gradients": all(map(_needs_gradients, own)),
            "steps": watch.steps - watch._start,
            "steps_with_gradients": watch._norms.reached,
            "calls": watch._replays.captured.answered,
            "others": dict(self._others),
        }

    def _note(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if is_compiling() or self._asleep() or any(each is optimizer for each in self._watched):
            return
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if any(id(parameter) in held for parameter in self._model.parameters()):
            self._others[type(optimizer).__name__] += 1


def _holds_another(optimizer: Optimizer) -> bool:
    return any(isinstance(each, Optimizer) for each in vars(optimizer).values())


def _needs_gradients(optimizer: Optimizer) -> bool:
    """Whether its step is torch's own, which passes over parameters without a gradient."""
    return type(optimizer).step.__module__.startswith("torch.optim.")
