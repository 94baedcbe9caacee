"""Which scores every attention masks away, and what hangs on the rows that see nothing."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from probes.attention import fold, heads_of
from probes.execution import Ran
from probes.experiment import Experiment
from probes.raised import source_here
from probes.softmaxes.applied import ALIKE, LAID, RECENT, Applied, Laid, laid, two_valued
from probes.softmaxes.trace import HIDDEN, SOFTMAX, Softmax, SoftmaxTrace, Use
from probes.subject import Batch

MASKING = {"aten::masked_fill", "aten::where", "aten::add"}


@dataclass(frozen=True, slots=True)
class Attended:
    """One attention of the evaluation.

    site: the module at work. call: how often it had attended before. weights: (row, head, query,
    key) as the values were weighed. blocked: the same shape, true where the key was masked away,
    before the softmax or after it. empty: the same but for the key: every score was masked away.
    source: the user's own line.
    """

    site: str
    call: int
    weights: Tensor
    blocked: Tensor
    empty: Tensor
    source: str | None = None


def attended(experiment: Experiment, batch: Batch | None = None) -> list[Attended]:
    """Every attention of the batch, by default the experiment's own, in evaluation mode, in order.

    Raises ExperimentError where the subject raises.
    """
    if batch is None and "attended" in experiment.memo:
        known: list[Attended] = experiment.memo["attended"]
        return known
    trace = MaskTrace(experiment.subject.model)
    experiment.evaluate(experiment.batch if batch is None else batch, (open_kernels(), trace))
    modules = dict(experiment.subject.model.named_modules())
    calls: Counter[str] = Counter()
    found = []
    for use in trace.uses:
        site = use.softmax.site
        found.append(_attended(use, heads_of(modules, site), calls[site]))
        calls[site] += 1
    if batch is None:
        experiment.memo["attended"] = found
        experiment.memo["thrown"] = list(trace.thrown)
        experiment.memo["applied"] = trace.applied
    return found


def thrown_away(experiment: Experiment) -> list[str]:
    """The modules that mask their scores and then weigh by the unmasked ones."""
    attended(experiment)
    known: list[str] = experiment.memo["thrown"]
    return known


def applied(experiment: Experiment) -> list[Applied]:
    """The masks of two values that attention lays over its scores, as they were given, in order."""
    attended(experiment)
    known: list[Applied] = experiment.memo["applied"]
    return known


def _attended(use: Use, heads: int, call: int) -> Attended:
    hidden = fold(use.softmax.hidden, heads, use.operand)
    weights = fold(use.weights, heads, use.operand)
    return Attended(
        site=use.softmax.site,
        call=call,
        weights=weights,
        blocked=hidden | (weights == 0),
        empty=hidden.all(-1),
        source=use.softmax.source,
    )


class MaskTrace(SoftmaxTrace):
    """While it is entered, the softmaxes of unmasked scores whose masked ones are thrown away.

    thrown: the modules at work there, in order. Masks of two values that are laid over the scores
    that do weigh values are in `applied`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.thrown: dict[str, None] = {}
        self._masked: dict[int, Tensor] = {}  # by id, held so that it is not given away
        self._laid: deque[tuple[Tensor, Laid]] = deque(maxlen=RECENT)
        self._over: list[tuple[Softmax, Laid, Tensor]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The operator has run as it would have, and was looked at."""
        name = func._schema.name
        if name in SOFTMAX and id(args[0]) in self._masked:
            self.thrown[self.running()] = None
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if name in MASKING and isinstance(out, Tensor) and out.ndim > 1 and _is_masked(out):
            for each in args:
                alike = isinstance(each, Tensor) and each.shape == out.shape
                if alike and each.is_floating_point() and not _is_masked(each):
                    self._masked[id(each)] = each
        if isinstance(out, Tensor):
            self._look(name, args, out)
        return out

    @property
    def applied(self) -> list[Applied]:
        """Of softmaxes that weigh values alone."""
        return [
            Applied(softmax.site, each.how, mask, use.weights, each.value, each.source)
            for use in self.uses
            for softmax, each, mask in self._over
            if softmax is use.softmax and mask.shape == use.weights.shape
        ]

    def _look(self, name: str, args: Any, out: Tensor) -> None:
        """Notes what is laid over what, and with a softmax what was laid over its scores."""
        if name in SOFTMAX and id(out) in self._carried:
            softmax = self._carried[id(out)][1]
            for scores, each in self._laid:
                if scores is args[0]:
                    mask = two_valued(each, scores.shape, softmax.axis)
                    if mask is not None:
                        self._over.append((softmax, each, mask))
        elif name in LAID:
            found = laid(name, args, out, source_here())
            if found is not None:
                self._laid.append((out, found))
        elif name in ALIKE:
            self._laid.extend([(out, each) for known, each in self._laid if known is args[0]])


def _is_masked(scores: Tensor) -> bool:
    wide = scores.is_floating_point() and scores.numel() > 0
    return wide and bool((scores <= HIDDEN).any())


class _Open(AbstractContextManager[None]):
    """Can be entered again once it was left."""

    def __init__(self) -> None:
        self._inside = ExitStack()

    def __enter__(self) -> None:
        self._inside.enter_context(_opened())

    def __exit__(self, *raised: object) -> None:
        self._inside.close()


def open_kernels() -> AbstractContextManager[None]:
    """Torch's attention runs operator by operator inside; its choice is as before after."""
    return _Open()


@contextmanager
def _opened() -> Iterator[None]:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class Refilled(TorchDispatchMode):
    """While it is entered, rows of a softmax that see nothing get other weights.

    None at all where they had some, the same everywhere where they had none. site: of one module
    alone, of all where None. silent: none at all in either case.
    """

    def __init__(
        self, experiment: Experiment, site: str | None = None, silent: bool = False
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._names = SoftmaxTrace(experiment.subject.model)
        self._site = site
        self._silent = silent

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The operator has run; a softmax gives what is said above."""
        out = func(*args, **(kwargs or {}))
        if func._schema.name in SOFTMAX and out.ndim:
            axis = args[1] % out.ndim
            empty = (args[0] <= HIDDEN).all(axis, keepdim=True)
            if self._silent:
                return out.masked_fill(empty, 0)
            if self._site in (None, self._names.running()):
                none = ~(out.sum(axis, keepdim=True) > 0)
                return torch.where(empty, none.to(out.dtype) / out.shape[axis], out)
        return out


def refilled(experiment: Experiment, site: str | None = None) -> Ran:
    """The evaluation with other weights where a row sees nothing."""
    return experiment.evaluate(experiment.batch, (open_kernels(), Refilled(experiment, site)))


def silenced(experiment: Experiment, batch: Batch) -> Ran:
    """The evaluation of a batch in which rows that see nothing give zeros."""
    return experiment.evaluate(batch, (open_kernels(), Refilled(experiment, silent=True)))
