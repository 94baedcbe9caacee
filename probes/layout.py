"""What the tensors of a subject mean: `Layout` and its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, get_args

from probes.errors import RequestError

Axis = Literal["sample", "turn", "token", "unit", "time", "head", "feature", "layer"]


class _Part:
    """A part of a layout, which prints as the shortest call that makes it."""

    def __repr__(self) -> str:
        key, *others = fields(self)  # type: ignore[arg-type]
        said = [
            f"{each.name}={getattr(self, each.name)!r}"
            for each in others
            if each.default is MISSING or getattr(self, each.name) != each.default
        ]
        return f"{type(self).__name__}({', '.join([repr(getattr(self, key.name)), *said])})"


@dataclass(frozen=True, repr=False)
class Mask(_Part):
    """A batch key that says which positions of other keys count.

    key: the mask's own key.
    hides: the keys whose positions it hides.
    axis: the axis of the hidden keys that it runs along, by name or number.
    means: `keep` (true is visible), `hide` (true is hidden), `length` (the key holds lengths)
        or `id` (id 0 of the hidden key itself is padding).
    side: where the padding stands.
    may_be_empty: whether a row may hide everything on purpose.
    """

    key: str
    hides: tuple[str, ...] = ("ids",)
    axis: str | int = "token"
    means: Literal["keep", "hide", "length", "id"] = "keep"
    side: Literal["right", "left"] = "right"
    may_be_empty: bool = False

    def __post_init__(self) -> None:
        _one_of(self, "means", ("keep", "hide", "length", "id"))
        _one_of(self, "side", ("right", "left"))
        if isinstance(self.axis, str):
            _one_of(self, "axis", get_args(Axis))


@dataclass(frozen=True, repr=False)
class Labels(_Part):
    """A batch key of labels: output position `p` is scored against label position `p + shift`."""

    key: str
    output: str
    shift: int = 0
    ignore: int | None = -100
    kind: Literal["class", "value"] = "class"
    mask: str | None = None

    def __post_init__(self) -> None:
        _one_of(self, "kind", ("class", "value"))


@dataclass(frozen=True, repr=False)
class Reads(_Part):
    """What position `j` of an output may depend on.

    `at` and `span` take their positions from the batch keys named by `keys`.
    """

    output: str
    of: str
    rule: Literal["same", "causal", "before", "all", "at", "span"] = "same"
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _one_of(self, "rule", ("same", "causal", "before", "all", "at", "span"))
        if self.rule in ("at", "span") and not self.keys:
            raise RequestError(
                f"`Reads(output={self.output!r}, rule={self.rule!r})` has no `keys`: name the "
                "batch keys that hold the positions."
            )


@dataclass(frozen=True, repr=False)
class State(_Part):
    """A recurrent state: the axis it runs over, whether it is carried, whether it is detached."""

    site: str
    over: Literal["time", "turn", "batch"] = "time"
    carried: bool = True
    detached: bool = False

    def __post_init__(self) -> None:
        _one_of(self, "over", ("time", "turn", "batch"))


@dataclass(frozen=True)
class Layout:
    """What the tensors mean; what is left out is guessed from names, shapes and dtypes.

    axes: key or site to its axis names, out of sample, turn, token, unit, time, head, feature
        and layer.
    masks, labels, reads, states: see `Mask`, `Labels`, `Reads`, `State`.
    names: key to how its entries are called: a sequence of strings, or a function of an id.
    frozen: parameter-name prefixes that are frozen on purpose.
    tied: pairs of parameters that are one on purpose.
    """

    axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    masks: tuple[Mask, ...] = ()
    labels: tuple[Labels, ...] = ()
    reads: tuple[Reads, ...] = ()
    states: tuple[State, ...] = ()
    names: Mapping[str, Callable[[Any], str] | Sequence[str]] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    tied: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        known = get_args(Axis)
        for key, axes in self.axes.items():
            strangers = [axis for axis in axes if axis not in known]
            if strangers:
                raise RequestError(
                    f"`Layout.axes[{key!r}]` names the axis {strangers[0]!r}, which is none of "
                    f"{', '.join(known)}."
                )


def _one_of(part: object, name: str, known: tuple[str, ...]) -> None:
    value = getattr(part, name)
    if value not in known:
        raise RequestError(
            f"`{type(part).__name__}.{name}` is {value!r}, which is none of {', '.join(known)}."
        )
