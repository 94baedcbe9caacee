"""Where the way back is cut: calls that take what needs a gradient and give what has none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probes.ancestry import leaves_behind
from probes.raised import source_here
from probes.reading.lost import Follow
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed

MOST = 200  # calls that are kept
HARMLESS = ("__get__", "size", "dim", "numel", "requires_grad_", "register_hook", "__format__")


@dataclass(frozen=True, slots=True)
class Cut:
    """A call that cuts parameters off: its name, the user's line, and what stands behind it.

    parameters: those that the loss gives no gradient to, and that this call reads.
    """

    op: str
    site: str | None
    source: str | None
    parameters: tuple[str, ...]


def cuts(subject: Subject, batch: Batch) -> tuple[Cut, ...]:
    """The calls behind which trained parameters stand that no gradient reaches.

    Runs the loss forward and back in the modes as found; gradients are dropped afterwards.
    """
    model = subject.model
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    seen = Cutting(model)
    model.zero_grad(set_to_none=True)
    with undisturbed(model, training=True), torch.enable_grad():
        with seen:
            loss = subject.loss(model, batch)
        loss.backward()
    silent = {id(p) for p in model.parameters() if p.requires_grad and p.grad is None}
    model.zero_grad(set_to_none=True)
    return tuple(_behind(seen.kept, silent, names)) if silent else ()


def _behind(
    kept: Sequence[tuple[str, str | None, str | None, Tensor]],
    silent: set[int],
    names: Mapping[int, str],
) -> Iterator[Cut]:
    """The last call on the way of each set of parameters, since it stands next to the loss."""
    left = set(silent)
    found: dict[tuple[str, str | None, str | None], list[int]] = {}
    for op, site, source, read in reversed(kept):
        behind = [each for each in parameters_of(read) if each in left]
        if behind:
            left -= set(behind)
            found.setdefault((op, site, source), []).extend(behind)
    for (op, site, source), behind in found.items():
        yield Cut(op, site, source, tuple(names[id_] for id_ in names if id_ in behind))


def parameters_of(tensor: Tensor) -> list[int]:
    """Ids of the leaves that a tensor was made from."""
    if tensor.grad_fn is None:
        return [id(tensor)]
    return [id(leaf) for leaf in leaves_behind(tensor)]


class Cutting(TorchFunctionMode):
    """While it is entered, keeps the calls that read what needs a gradient and give none."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.kept: list[tuple[str, str | None, str | None, Tensor]] = []
        self._follow = Follow({}, model, None)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The function has run."""
        reads = list(_needing([*args, *(kwargs or {}).values()]))
        before = len(self.kept)
        out = func(*args, **(kwargs or {}))
        name = _name(func)
        if reads and before == len(self.kept) < MOST and name and _is_cut(out):
            off = "" if torch.is_grad_enabled() else " under no_grad"
            site = self._follow.site()
            self.kept += [(name + off, site, source_here(), read) for read in reads]
        return out


def _name(func: Callable[..., Any]) -> str | None:
    """`detach`, `data`, `argmax`; None of what tells shapes and the like."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        owner = getattr(getattr(func, "__self__", None), "__name__", "")
        return "data" if owner == "data" else None
    return None if name in HARMLESS else name


def _needing(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.requires_grad:
            yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _needing(item)


def _is_cut(out: Any) -> bool:
    """Whether numbers came out that have no way back; a list of them, or one, included."""
    if isinstance(out, Tensor):
        return not out.requires_grad
    if isinstance(out, (list, tuple)):
        return bool(out) and all(_is_cut(each) for each in out)
    return isinstance(out, float) or type(out).__module__ == "numpy"
