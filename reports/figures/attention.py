"""One recorded attention map, and what makes it, or a head of it, worth a look."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.floating]
Marks = npt.NDArray[np.bool_]

TAIL = 2  # places of padding that stay at an end
SPECIAL = frozenset({"[CLS]", "[SEP]", "<s>", "</s>", "<cls>", "<sep>", "<bos>", "<eos>"})


@dataclass(frozen=True)
class Attention:
    """One recorded map.

    weights: (head, query, key). queries, keys: names, or places where there are none.
    query_padding, key_padding: declared, by mask. hidden: (key,) masked for every query by the
    model. masked: (query,) every key masked by the model. named: whether queries and keys have
    names. cut: queries and keys of padding at the end that were taken off.
    """

    name: str
    site: str
    layer: int
    sample: str
    row: str | None
    heads: tuple[str, ...]
    weights: Weights
    query_axis: str
    key_axis: str
    queries: tuple[str, ...]
    keys: tuple[str, ...]
    query_padding: Marks
    key_padding: Marks
    hidden: Marks
    masked: Marks
    named: bool = False
    cut: tuple[int, int] = (0, 0)

    @cached_property
    def real(self) -> Marks:
        """(query,) neither padding nor masked."""
        return ~(self.query_padding | self.masked)

    @property
    def cut_words(self) -> str:
        """What was taken off, such as `18 rows and 1 column`."""
        counted = zip(self.cut, ("row", "column"), strict=True)
        return " and ".join(f"{n} {what}{'s' if n > 1 else ''}" for n, what in counted if n)

    @cached_property
    def on_padding(self) -> float:
        """The largest share of a query's weight that lies on padding; 0 where none can be told."""
        share = self.weights[:, self.real][:, :, self.key_padding].sum(-1)  # (head, query)
        return float(np.nan_to_num(share).max(initial=0))

    @cached_property
    def odd(self) -> int:
        """Queries, over heads, that hold a weight that is not finite."""
        return int((~np.isfinite(self.weights)).any(-1).sum())

    @cached_property
    def badness(self) -> float:
        """What makes a map worth a look: not finite first, masked rows, weight on padding."""
        masked = int((self.masked & ~self.query_padding).sum())
        return 1000.0 * self.odd + masked + self.on_padding

    @cached_property
    def crosses(self) -> bool:
        """Whether it looks from one kind of thing at another, such as SQL steps at db units."""
        return self.query_axis != self.key_axis and self.named

    @cached_property
    def largest(self) -> float:
        """The largest finite weight of a query that is neither padding nor masked."""
        found = self.weights[:, self.real]
        return float(np.where(np.isfinite(found), found, 0).max(initial=0))

    @cached_property
    def even(self) -> float:
        """The weight of each key, were it spread evenly over those that are neither."""
        return 1 / max(1, int((~(self.key_padding | self.hidden)).sum()))

    @cached_property
    def flat(self) -> bool:
        """Whether no query looks anywhere in particular, so that small pictures tell all."""
        return len(self.heads) > 1 and self.odd == 0 and self.largest < 2 * self.even

    @cached_property
    def entropies(self) -> npt.NDArray[np.float64]:
        """(head,) the mean entropy of a query in nats; NaN where no query is real."""
        found = self.weights[:, self.real]
        finite = np.where(np.isfinite(found) & (found > 0), found, 1.0)
        spread = -np.einsum("hqk,hqk->hq", finite, np.log(finite))  # (head, query)
        if not spread.shape[1]:
            return np.full(len(self.heads), np.nan)
        out: npt.NDArray[np.float64] = spread.mean(-1)
        return out

    @cached_property
    def sharpest(self) -> int:
        """The head whose queries look at the fewest keys."""
        return int(np.nan_to_num(self.entropies, nan=0.0).argmin())

    @cached_property
    def worst(self) -> int:
        """The head with the most weights that are not finite; failing that, the sharpest."""
        odd = (~np.isfinite(self.weights)).sum((1, 2))
        return int(odd.argmax()) if odd.any() else self.sharpest


def trimmed(map_: Attention) -> Attention:
    """The map without most of the padding at its end, where that is finite and gets no weight."""
    odd = ~np.isfinite(map_.weights)
    weighed = (np.nan_to_num(map_.weights) > 0) | odd
    rows = _kept(map_.query_padding & ~odd.any((0, 2)))
    columns = _kept((map_.key_padding | map_.hidden) & ~weighed.any((0, 1)))
    queries, keys = map_.weights.shape[1:]
    if (rows, columns) == (queries, keys):
        return map_
    return replace(
        map_,
        weights=map_.weights[:, :rows, :columns],
        queries=map_.queries[:rows],
        keys=map_.keys[:columns],
        query_padding=map_.query_padding[:rows],
        key_padding=map_.key_padding[:columns],
        hidden=map_.hidden[:columns],
        masked=map_.masked[:rows],
        cut=(queries - rows, keys - columns),
    )


def _kept(idle: Marks) -> int:
    """How many places stay: all but those at the end that are idle, of which a few stay."""
    busy = np.flatnonzero(~idle)
    return min(len(idle), (int(busy[-1]) + 1 if len(busy) else 0) + TAIL)


@dataclass(frozen=True, slots=True)
class Head:
    """What one head does with the queries that are real: shares of their weight, by their mean.

    entropy: over that of an even spread; 0 is one key, 1 is even. None where nothing is real.
    special: on [CLS], [SEP] and the like; None where no key has such a name. diagonal: None where
    queries and keys are not the same things.
    """

    layer: int
    site: str
    row: str | None
    head: str
    entropy: float | None
    padding: float | None
    diagonal: float | None
    special: float | None
    first_key: float | None
    odd: int

    @property
    def remark(self) -> str:
        """What is odd about the head: not finite, dead (it looks at nothing in particular), ..."""
        if self.odd:
            return f"{self.odd} rows not finite"
        if self.entropy is None:
            return "no query"
        for share, words in (
            (self.padding, "on padding"),
            (self.special, "dead: all on special tokens"),
            (self.first_key, "dead: all on the first key"),
            (self.diagonal, "each looks at itself"),
        ):
            if share is not None and share > 0.9:
                return words
        return "dead: even" if self.entropy > 0.98 else ""


def heads(map_: Attention) -> tuple[Head, ...]:
    """What every head of the map does."""
    real, count = map_.real, len(map_.heads)
    found = np.nan_to_num(map_.weights[:, real], posinf=0.0, neginf=0.0)  # (head, query, key)
    there = bool(real.any())
    special = np.array([key in SPECIAL for key in map_.keys], bool)
    same = map_.query_axis == map_.key_axis and map_.weights.shape[1] == map_.weights.shape[2]
    own = np.flatnonzero(real)
    odd = (~np.isfinite(map_.weights)).any(-1).sum(-1)
    most = np.log(max(2.0, 1 / map_.even))
    entropies = map_.entropies / most

    def share(chosen: Weights, told: bool = True) -> list[float | None]:
        return chosen.mean(-1).tolist() if there and told else [None] * count

    padding = share(found[:, :, map_.key_padding].sum(-1), bool(map_.key_padding.any()))
    diagonal = share(found[:, np.arange(len(own)), own] if same else found[..., 0], same)
    on_special = share(found[:, :, special].sum(-1), bool(special.any()))
    first = share(found[:, :, 0], map_.weights.shape[2] > 2)
    return tuple(
        Head(
            map_.layer, map_.site, map_.row, map_.heads[at],
            None if np.isnan(entropies[at]) else float(entropies[at]),
            padding[at], diagonal[at], on_special[at], first[at], int(odd[at]),
        )
        for at in range(count)
    )  # fmt: skip
