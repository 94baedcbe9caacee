"""What one suite is asked to do: plain values, which cross to another process as JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from probes.errors import RequestError

Ending = Literal["memorised", "steps", "refused", "died"]
"""All steps done, stopped early, at a step that the watch refused, or by an exception."""


Kind = Literal["suite", "blind", "try"]
"""As it is, with its inputs shuffled among the samples, or with interventions."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One suite.

    size: how many samples. sizes: of all suites of this run, since the smaller are drawn from
    the larger. steps: optimizer steps at most. again: whether it may go on for as many again where
    the samples are nearly memorised as these end. every: steps from one evaluation to the next.
    in_a_row: perfect evaluations after which the suite stops. dropout: left as it is.
    attention: the trained model's attention maps are written into the record. rests: what the
    decisions of a model that did not memorise rest on is measured.
    kind: see `Kind`. changed: the names of the interventions. weights: what seeds the subject's
    weights, where that is not the seed of the draw.
    """

    size: int
    sizes: tuple[int, ...]
    seed: int = 0
    steps: int = 400
    every: int = 10
    in_a_row: int = 3
    dropout: bool = False
    attention: bool = False
    rests: bool = False
    kind: Kind = "suite"
    changed: tuple[str, ...] = ()
    weights: int | None = None
    again: bool = False

    @property
    def name(self) -> str:
        """The name of its part in the run folder."""
        plain = f"overfit-{self.size}-seed{self.seed}"
        if self.kind == "suite":
            return plain
        if self.kind == "blind":
            return f"{plain}-blind"
        words = "-and-".join(self.changed) or "unchanged"
        return f"{plain}-why-{re.sub(r'[^A-Za-z0-9.]+', '-', words).strip('-')}"

    @property
    def first_seed(self) -> int:
        """What is seeded before the subject loads."""
        return self.seed if self.weights is None else self.weights

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Plan:
        """The plan that `asdict` made plain."""
        return cls(**{**row, "sizes": tuple(row["sizes"]), "changed": tuple(row["changed"])})


def parse_sizes(text: str) -> tuple[int, ...]:
    """`5,20` as (5, 20). Raises RequestError where that is not what the text is."""
    try:
        sizes = tuple(int(word) for word in text.split(","))
    except ValueError:
        sizes = ()
    return check_sizes(sizes, f"--sizes {text}")


def check_sizes(sizes: tuple[int, ...], said: str) -> tuple[int, ...]:
    """The sizes, in rising order. Raises RequestError where one is twice or below 1."""
    if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise RequestError(
            f"`{said}` names no sizes: different whole numbers of samples from 1 up were "
            "expected, with commas between them, such as `--sizes 5,20`."
        )
    return tuple(sorted(sizes))
