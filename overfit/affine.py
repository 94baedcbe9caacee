"""Whether a model is affine in its input, so that all its layers are worth a single one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from overfit.exchange import rolled
from probes.batch import leaves, map_leaves
from probes.layout import Layout
from probes.raised import source_here
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed

LAYERS = (
    *("linear", "conv1d", "conv2d", "conv3d", "matmul", "__matmul__", "mm", "addmm", "einsum"),
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
)
PICKS = ("embedding", "__getitem__", "index_select")
BETWEEN = (0.5, -2.0, 3.0)  # shares of one input of two, some of them far beyond either
CLOSE = 1e-4  # of the largest output: what rounding makes of it
APART = 1e-3  # of the largest output: what two inputs differ by, where the model reads them
RANK = 1e-5  # of the largest singular value


@dataclass(frozen=True, slots=True)
class Affine:
    """A model that gives a mixture of two inputs the mixture of their outputs.

    layers: those in a row from the input on, by name. source: the user's line of the second one.
    rank: how many numbers, the constant among them, the last one is given of each place; read: how
    many the first one is, where it reads one place at a time; places: how many these are.
    """

    layers: tuple[str, ...]
    source: str | None
    rank: int
    places: int
    read: int | None = None

    @property
    def fix(self) -> str:
        """What mends it."""
        if len(self.layers) < 2:
            return "Give the model a hidden layer with a nonlinearity behind it."
        return f"Put a nonlinearity behind each layer but the last, `{self.layers[0]}` first."

    @property
    def words(self) -> str:
        """What follows from it, as part of a sentence."""
        told = (
            f"{self.rank} numbers, the constant among them, are all it has for {self.places} places"
        )
        if len(self.layers) < 2:
            return f"the model is affine in its input, which `{self.layers[0]}` alone reads: {told}"
        line = f" ({self.source})" if self.source else ""
        return (
            f"the model is affine in its input, since no nonlinearity stands between "
            f"`{self.layers[0]}` and `{self.layers[-1]}`{line}: its {len(self.layers)} layers are "
            f"worth one, and {told}"
        )


def affine_in(
    subject: Subject, batches: Sequence[Batch], keys: Sequence[str], layout: Layout
) -> Affine | None:
    """What is known of a model that is affine in its input; None of any other.

    The numbers among the input keys, and the rows that are picked from tables, are mixed with
    those of another sample, within the two and beyond; each layer's output is held against the
    mixture of the outputs. None, too, where as many numbers tell the places apart as there are.
    """
    batch = batches[0]
    other = rolled(batch, _numbers(batch, keys), layout) or batch
    one, two = _run(subject, batch, 0.0), _run(subject, other, 1.0)
    if not one or not _same_shapes(one, two) or not _apart(one[-1].out, two[-1].out):
        return None
    for share in BETWEEN:
        mixed = _run(subject, _mixed(other, batch, share), share)
        if not _same_shapes(one, mixed) or not all(
            _close(m.out, share * b.out + (1 - share) * a.out)
            for a, b, m in zip(one, two, mixed, strict=True)
        ):
            return None
    chain = _in_a_row(subject, batch, one)
    runs = [_run(subject, each, 0.0) for each in batches]
    first, last = (_room([run[i].given for run in runs]) for i in (chain[0], chain[-1]))
    if last is None or last[0] >= last[1]:
        return None
    names = tuple(dict.fromkeys(one[i].name for i in chain))
    line = one[chain[1]].source if len(names) > 1 else None
    return Affine(names, line, *last, None if first is None else first[0])


def _room(pieces: Sequence[Tensor | None]) -> tuple[int, int] | None:
    """How many numbers a layer is given of each place, the constant too, and of how many places."""
    known = [each for each in pieces if each is not None]
    if len(known) < len(pieces):
        return None
    given = torch.cat(known)
    spread = given - given.mean(0)
    grid = (spread / spread.abs().max().clamp(min=1e-12) / CLOSE).round()
    return int(torch.linalg.matrix_rank(spread, rtol=RANK)) + 1, len(torch.unique(grid, dim=0))


def _numbers(batch: Batch, keys: Sequence[str]) -> list[str]:
    known = leaves(batch)
    floats = [key for key in keys if isinstance(known.get(key), Tensor)]
    return [key for key in floats if known[key].is_floating_point()]


def _mixed(one: Batch, other: Batch, share: float) -> Batch:
    """So much of the first, and the rest of the second, wherever the two are not the same."""
    others = leaves(other)

    def mixed(path: str, leaf: Any) -> Any:
        if leaf is others[path] or not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            return leaf
        if torch.equal(leaf, others[path]):
            return leaf
        return share * leaf + (1 - share) * others[path]

    return map_leaves(one, mixed)


@dataclass(frozen=True, slots=True)
class _Call:
    """A layer's call: its module, what it gave, the user's line, and (place, feature) its input.

    given: None of a convolution that reads several places at once.
    """

    name: str
    out: Tensor
    source: str | None
    given: Tensor | None


def _run(subject: Subject, batch: Batch, share: float, turned: int | None = None) -> list[_Call]:
    calls = _Layers(subject.model, share, turned)
    with undisturbed(subject.model), torch.no_grad(), calls:
        subject.loss(subject.model, batch)
    return calls.kept


def _in_a_row(subject: Subject, batch: Batch, calls: Sequence[_Call]) -> list[int]:
    """The first call, and those after it that read what it gives."""
    turned = _run(subject, batch, 0.0, turned=0)
    pairs = enumerate(zip(calls, turned, strict=True))
    return [0, *(i for i, (a, b) in pairs if i and _apart(a.out, b.out))]


def _same_shapes(one: Sequence[_Call], other: Sequence[_Call]) -> bool:
    return [each.out.shape for each in one] == [each.out.shape for each in other]


def _apart(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() > APART * one.abs().max())


def _close(one: Tensor, other: Tensor) -> bool:
    size = max(float(one.abs().max()), float(other.abs().max()))
    return bool((one - other).abs().max() <= CLOSE * size)


class _Layers(TorchFunctionMode):
    """Keeps what layers give, and mixes the rows that are picked from tables with others' rows.

    share: of the other's row. turned: the call whose output is given to the other samples.
    """

    def __init__(self, model: nn.Module, share: float, turned: int | None) -> None:
        super().__init__()
        self.kept: list[_Call] = []
        self._names = {id(p): n.rpartition(".")[0] for n, p in model.named_parameters()}
        self._share, self._turned = share, turned

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The function has run; what a table gave is mixed."""
        out, name = func(*args, **(kwargs or {})), getattr(func, "__name__", "")
        weight = next((a for a in args if self._is_weight(a)), None)
        if weight is None or not isinstance(out, Tensor) or not out.is_floating_point():
            return out
        if name in PICKS and self._share:
            return self._share * out.roll(1, 0) + (1 - self._share) * out
        if name in LAYERS:
            given = next((a for a in args if isinstance(a, Tensor) and a is not weight), out)
            wide = name.startswith("conv") and weight[0, 0].numel() > 1
            place = self._names[id(weight)] or "model"
            rows = None if wide else _rows(given.movedim(1, -1) if "conv" in name else given)
            self.kept.append(_Call(place, out, source_here(), rows))
            if self._turned == len(self.kept) - 1:
                return out.roll(1, 0)
        return out

    def _is_weight(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.ndim > 1 and id(value) in self._names


def _rows(given: Tensor) -> Tensor:
    """(place, feature) of what has its features along the last axis."""
    return given.detach().reshape(-1, given.shape[-1])
