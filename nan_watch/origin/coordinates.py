"""Coordinates by name: which axis of a tensor is the sample's, the token's, the head's.

What `Layout.axes` declares of a site stands; else an axis is known by its size, which the batch
has too. An axis that cannot be told is a row, a column or a feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from nan_watch.origin.held import Where
from probes.batch import leaves
from probes.guess import complete
from probes.layout import Layout
from probes.subject import Batch


@dataclass(frozen=True, slots=True)
class Axes:
    """How long each named axis of the batch is, samples first; and what is declared of sites."""

    sizes: tuple[tuple[str, int], ...]
    declared: Mapping[str, tuple[str, ...]]
    tables: frozenset[tuple[int, ...]] = frozenset()

    @classmethod
    def of(cls, batch: Batch, layout: Layout | None, tables: Sequence[tuple[int, ...]]) -> Axes:
        """The axes of the batch's tensors; `tables` are the shapes of the parameters."""
        full = complete(batch, layout).layout
        found = leaves(batch)
        sizes: dict[str, int] = {}
        for path, names in full.axes.items():
            tensor = found.get(path)
            if isinstance(tensor, Tensor) and tensor.ndim == len(names):
                for name, size in zip(names, tensor.shape, strict=True):
                    sizes.setdefault(name, size)
        sizes.pop("feature", None)
        first = {"sample": sizes.pop("sample")} if "sample" in sizes else {}
        return cls(tuple({**first, **sizes}.items()), full.axes, frozenset(tables))

    def names(self, shape: tuple[int, ...], site: str, backward: bool) -> tuple[str, ...]:
        """A name for each axis of a tensor at the site."""
        declared = self.declared.get(site, ())
        if shape and len(declared) == len(shape):
            return declared
        if backward and shape in self.tables:  # the gradient of a parameter
            return plain_names(len(shape))
        return self._matched(shape)

    def _matched(self, shape: tuple[int, ...]) -> tuple[str, ...]:
        names: list[str | None] = [None] * len(shape)
        for name, size in self.sizes:
            at = next((i for i, n in enumerate(shape) if names[i] is None and n == size), None)
            if at is not None:
                names[at] = name
        if "sample" not in names:
            return plain_names(len(shape))
        if len(shape) == 4 and names == ["sample", None, None, None]:
            return ("sample", "feature", "row", "column")  # an image's
        if len(shape) == 4 and names[:2] == ["sample", None]:
            names[1] = "head"
        if len(shape) == 3 and names[0] == "sample" and "time" not in names:
            names[1] = names[1] or "time"
        if names[-1] is None:
            names[-1] = "feature"
        return tuple(name or "column" for name in names)

    def coordinates(self, place: Where, site: str, backward: bool) -> dict[str, int]:
        """The first bad element's coordinates by name."""
        if not place.first:
            return {}
        first = place.first[0]
        folded = self._fold(place.shape)
        if folded is not None and not (backward and place.shape in self.tables):
            name, size = folded
            rest = ("feature",) if len(first) == 2 else ("token", "column")[: len(first) - 1]
            return {"sample": first[0] // size, name: first[0] % size} | dict(
                zip(rest, first[1:], strict=False)
            )
        return dict(zip(self.names(place.shape, site, backward), first, strict=True))

    def samples(self, place: Where, site: str, backward: bool) -> tuple[int, ...] | None:
        """The samples that hold bad elements; None where no axis is known to be the samples'."""
        folded = self._fold(place.shape)
        if folded is not None and not (backward and place.shape in self.tables):
            return tuple(sorted({row // folded[1] for row in place.along[0]}))
        names = self.names(place.shape, site, backward)
        return place.along[names.index("sample")] if "sample" in names else None

    def _fold(self, shape: tuple[int, ...]) -> tuple[str, int] | None:
        """The axis that is folded into the first one behind the sample's, and its length."""
        sizes = dict(self.sizes)
        samples = sizes.pop("sample", 0)
        if samples < 2 or not shape or shape[0] <= samples or shape[0] % samples:
            return None
        if shape[0] in sizes.values():
            return None
        inner = shape[0] // samples
        name = next((name for name, size in sizes.items() if size == inner), None)
        if name is not None:
            return name, inner
        attention = len(shape) == 3 and shape[1] in sizes.values() and shape[2] in sizes.values()
        return ("head", inner) if attention else None


def plain_names(axes: int) -> tuple[str, ...]:
    """Names for axes that nothing is known of: row, column, feature, and numbers before them."""
    known = ("row", "column", "feature")[:axes]
    return (*(f"axis{number}" for number in range(axes - 3)), *known)
