"""Stands before the optimizer: a poisoned step never reaches the weights."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from torch.optim import Optimizer

from nan_watch.adapters.together import together
from probes.errors import RequestError
from probes.finding import Finding
from probes.replay import with_inner

MOST = 10  # refusals in a row, after which skipping gives up


class PoisonedStep(RuntimeError):  # noqa: N818
    """A loss, gradient or parameter is not finite; the optimizer did not write it.

    finding: what is known of it, which is also the message.
    """

    def __init__(self, finding: Finding, run: str | None = None) -> None:
        lines = [finding.message, f"fix: {finding.fix}", *([f"run: {run}"] if run else [])]
        super().__init__("\n".join(lines))
        self.finding = finding


class Refusals:
    """How many steps were refused one after the other; ten end a loop that goes on after each."""

    def __init__(self, on_poison: str) -> None:
        self._on_poison = on_poison
        self.count = 0

    def add(self) -> bool:
        """One more was; returns whether the loop ends here."""
        self.count += 1
        too_many = self._on_poison == "skip" and self.count >= MOST
        return self._on_poison == "raise" or too_many

    def end(self) -> None:
        """A step was not refused."""
        self.count = 0


def real_optimizer(optimizer: Any) -> Optimizer:
    """The optimizer; or the one that it wraps, where it is a class of its own; several as one.

    Raises RequestError where there is none.
    """
    if isinstance(optimizer, (list, tuple)) and optimizer:
        return together([real_optimizer(each) for each in optimizer])
    found = with_inner([optimizer]) if hasattr(optimizer, "__dict__") else []
    if not found:
        raise RequestError(
            f"`optimizer` is a {type(optimizer).__name__}, which neither is a torch Optimizer nor "
            "holds one: pass the `torch.optim.Optimizer` that writes the parameters, or a list of "
            "all that do."
        )
    return found[0]


class Guard:
    """Calls `before` ahead of every step of the optimizer and `after` behind it.

    One that the optimizer holds inside, and that is stepped in its place, counts as well. An LBFGS
    with a line search tries points that it may give up again, and where nothing need be finite:
    only the point that its step begins at counts. Without one, each point does.
    asleep: whether steps are of no interest now, as those of a replay. afresh: called where what
    was seen since the last step is no part of the next, as at the points that are tried.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        before: Callable[[], None],
        after: Callable[[], None],
        asleep: Callable[[], bool] = lambda: False,
        afresh: Callable[[], None] = lambda: None,
    ) -> None:
        self.optimizer = optimizer
        self._before = before
        self._after = after
        self._asleep = asleep
        self._afresh = afresh
        self._hooks = ExitStack()
        self._stands = False
        self._at_work = optimizer  # the one that steps, of those that it holds
        self._outermost: FrameType | None = None  # the call of `step` that is at work
        self._inner = 0  # how many are at work inside of it
        self._bare = True  # whether the step at work is given nothing

    def demand_free(self) -> None:
        """Raises RequestError where the guard stands already."""
        if self._stands:
            raise RequestError(
                "this `NanWatch` stands around a block already, and was to stand around another "
                "inside of it: make a new one for each block, or begin it once."
            )

    def __enter__(self) -> Self:
        """The guard stands."""
        pre, post = self._pre, self._post
        if "torch._dynamo" in sys.modules:  # a step that is compiled calls them from outside of it
            pre, post = (torch.compiler.disable(each) for each in (pre, post))
        with ExitStack() as hooks:
            for each in with_inner([self.optimizer]):
                hooks.callback(each.register_step_pre_hook(pre).remove)
                hooks.callback(each.register_step_post_hook(post).remove)
            self._hooks = hooks.pop_all()
        self._stands = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Our hooks are off, and no other."""
        self._hooks.close()
        self._outermost, self._stands = None, False

    def refuse(self) -> None:
        """The step that is about to be taken changes neither parameters nor optimizer state."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def is_skipped_by_scaler(self) -> bool:
        """Whether a GradScaler has told the optimizer to take no step: fused ones are called."""
        found = getattr(self._at_work, "found_inf", None)
        return found is not None and bool(found)

    def grad_scale(self) -> float:
        """What the optimizer divides its gradients by as it steps, told by a GradScaler."""
        scale = getattr(self._at_work, "grad_scale", None)
        return 1.0 if scale is None else float(scale)

    @property
    def stepping(self) -> Optimizer:
        """The optimizer whose step is at work."""
        return self._at_work

    @property
    def bare(self) -> bool:
        """Whether that step is given nothing."""
        return self._bare

    def _pre(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        if self._asleep():  # a replay
            return None
        caller = _caller(sys._getframe(1))
        if self._inside(caller):  # an optimizer whose step calls its parent's
            self._inner += 1
            return None
        self._outermost, self._at_work, self._inner = None, optimizer, 0
        # torch calls the hook with the optimizer itself as the first of the arguments
        own, rest = args[:1], args[1:]
        self._bare = all(each is None for each in (*rest, *kwargs.values()))
        closure = rest[0] if rest else kwargs.get("closure")
        if closure is None:
            self._before()
            self._outermost = caller
            return None

        self._outermost = caller
        tries, begun = _tries(optimizer), False

        def guarded() -> Any:  # the gradients are there only once the closure has run
            nonlocal begun
            if begun and tries:
                self._afresh()
            loss = closure()
            if not (begun and tries):
                self._before()
            begun = True
            return loss

        return (*own, guarded, *rest[1:]), {k: v for k, v in kwargs.items() if k != "closure"}

    def _post(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._asleep() or self._outermost is None:
            return
        if self._inner:
            self._inner -= 1
        else:
            self._outermost = None
            if _tries(optimizer):
                self._afresh()
            self._after()

    def _inside(self, frame: FrameType | None) -> bool:
        """Whether the call of `step` that is at work is among the callers of this one."""
        while self._outermost is not None and frame is not None:
            if frame is self._outermost:
                return True
            frame = frame.f_back
        return False


def _tries(optimizer: Optimizer) -> bool:
    """Whether its step looks at points where it need not stay."""
    groups = optimizer.param_groups if isinstance(optimizer, torch.optim.LBFGS) else []
    return any(group["line_search_fn"] is not None for group in groups)


def _caller(frame: FrameType | None) -> FrameType | None:
    """The frame, or the one that calls it through `torch.compiler.disable`."""
    while frame is not None and frame.f_globals.get("__name__") == "torch._dynamo.eval_frame":
        frame = frame.f_back
    return frame
