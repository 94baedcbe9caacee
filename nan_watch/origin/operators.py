"""What an operator does with its arguments: which it writes, and which of those it also reads."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probes.nested import tensors_in

OVERWRITES = frozenset(
    {"aten.bernoulli_", "aten.cauchy_", "aten.copy_", "aten.exponential_", "aten.fill_"}
    | {"aten.geometric_", "aten.log_normal_", "aten.normal_", "aten.random_", "aten.resize_"}
    | {"aten.set_", "aten.uniform_", "aten.zero_"}
)
EMPTIES = frozenset(
    {"aten.empty", "aten.empty_like", "aten.empty_permuted", "aten.empty_strided"}
    | {"aten.new_empty", "aten.new_empty_strided", "aten.resize_"}
)
BATCH_NORMS = frozenset(
    {"aten.native_batch_norm", "aten.cudnn_batch_norm", "aten.miopen_batch_norm"}
)
UNTOLD = ("running_mean", "running_var")  # which they write in training; their schema is silent


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator by its name, `aten.add_`.

    writes: positions and names of the arguments that it writes. reads_what_it_writes: whether
    their old content matters. pointwise: whether each output element has one input element of
    each. empties: whether it returns memory that nobody set. views: whether it only looks at its
    arguments' memory in another way. untold: those that it writes besides where `training` is true,
    of which its schema says nothing.
    """

    name: str
    writes: tuple[tuple[int, str], ...]
    reads_what_it_writes: bool
    pointwise: bool
    empties: bool
    views: bool
    untold: tuple[int, ...] = ()
    training: int = 0

    def written_untold(self, args: Sequence[Any]) -> list[Tensor]:
        """The tensors that a call writes although its schema does not say so."""
        if not self.untold or len(args) <= self.training or not args[self.training]:
            return []
        return list(tensors_in([args[place] for place in self.untold]))

    def written(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """The tensors that a call of it writes in place."""
        found = [kwargs.get(n, args[p] if p < len(args) else None) for p, n in self.writes]
        return list(tensors_in(found))


@functools.cache
def operator(func: Any) -> Operator:
    """What is known of a `torch.ops` function."""
    schema = getattr(func, "_schema", None)
    if schema is None:  # a higher-order operator
        return Operator(str(func), (), True, False, False, False)
    name = schema.name.replace("::", ".")
    writes = [
        (position, argument)
        for position, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    places = {argument.name: place for place, argument in enumerate(schema.arguments)}
    untold = tuple(places[each] for each in UNTOLD) if name in BATCH_NORMS else ()
    return Operator(
        name=name,
        untold=untold,
        training=places["training"] if untold else 0,
        writes=tuple((position, argument.name) for position, argument in writes),
        reads_what_it_writes=name not in OVERWRITES
        and any(not argument.kwarg_only for _, argument in writes),
        pointwise=torch.Tag.pointwise in func.tags,
        empties=name in EMPTIES,
        views=not writes and any(each.alias_info is not None for each in schema.returns),
    )
