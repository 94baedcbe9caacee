"""What makes gradients vast, as far as the run shows it: a number near zero in the code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nan_watch.course import Course

FLOAT32 = 126  # bits of its range below 1, as those of bfloat16
HALF = 40  # bits of all of float16's range: where no more are left, the dtype is not known
MEAN = (
    100  # samples over which a loss may take its mean, which the gradients of each are divided by
)


@dataclass(frozen=True, slots=True)
class Source:
    """A place in the code that was given a number near zero.

    place: `smallest divisor of aten.div`. line: `train.py:12`. value: the median of the steps that
    were looked at. site: the module whose output has the largest gradient, which is `grad`.
    """

    place: str
    line: str
    value: float
    site: str
    grad: float

    def __str__(self) -> str:
        return (
            f"the {self.place} at {self.line} is about {self.value:.2g} and the gradient of the "
            f"output of `{self.site}` reaches {self.grad:.3g}"
        )


def source_of(course: Course, nothing: float) -> Source | None:
    """The place given the smallest number under `nothing`; None where no gradient is as large.

    An output's gradient has to reach one over that number, or a hundredth of it: a vector of
    zeros that is normalised has an eps under it too, and makes no large gradient.
    """
    sizes = [_largest(course, column) for column in range(len(course.output_grads.sites))]
    if not sizes or max(sizes) == 0:
        return None
    grad, site = max(sizes), course.output_grads.sites[int(np.argmax(sizes))]
    found = []
    for column, name in enumerate(course.edges.sites):
        value = _value(course.edges.values[:, column])
        if value is None or not name.startswith("smallest"):
            continue
        if value < nothing and 1 / value <= MEAN * grad:
            place, _, line = name.rpartition(" at ")
            found.append(Source(place, line, value, site, grad))
    return min(found, key=lambda each: each.value, default=None)


def _largest(course: Course, column: int) -> float:
    values = course.output_grads.values[:, column]
    return float(values[np.isfinite(values)].max(initial=0))


def _value(bits: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float | None:
    """What so many bits are left of, in the median."""
    there = bits[np.isfinite(bits)]
    if not len(there) or float(np.median(there)) <= HALF:
        return None
    return float(2.0 ** (float(np.median(there)) - FLOAT32))
