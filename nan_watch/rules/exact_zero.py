"""GRD003: a gradient is exactly zero in every step."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from nan_watch.course import Course, is_bias, lacks_gradients, largest, long_enough, module_of, once
from probes.finding import Evidence, Finding, Verdict
from probes.run import Run

NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)")
BY_DESIGN = re.compile(
    r"weight_hh|(^|[._])(q|k|query|key|to_q|to_k|q_lin|k_lin|q_proj|k_proj|query_key)([._]|$)"
)


@dataclass(frozen=True, slots=True)
class ExactZero:
    """Weights take part in the loss and get a gradient of exactly zero in every step.

    Rounding alone makes a small gradient, never an exact zero in `steps` steps on end: something
    multiplies by zero. A Linear's weight gradient is its input times the gradient of its output,
    so it is zero where the whole input is (a mask that hides everything) or where everything
    behind is dead (ReLUs that never open, a constant loss). Where no parameter at all has one,
    training cannot begin: that fails. Either the loss does not depend on any, or something zero
    stands beside each, as where both factors of a product begin as zeros.

    Zero by design, and a note at most: biases beside a weight that learns, which a normalisation
    or a softmax cancels; a recurrent matrix that only ever saw the zero state of a single time
    step; query and key of an attention over a single position; one of several modules alike, as
    an expert that is never chosen, while another of them learns; and
    what the code itself multiplies by the number 0 before the loss, as
    `loss + 0 * sum(every parameter)`.

    Sick: `torch.relu(linear(x) - 1e3)`, or `embedding(ids) * mask` with a mask of zeros.
    Healthy: the last layer of a residual branch initialised with zero, whose input's gradient is
        zero in the first step alone.
    """

    steps: int = 5

    code: ClassVar[str] = "GRD003"
    rule: ClassVar[str] = "exact-zero-gradient"
    family: ClassVar[Literal["health"]] = "health"

    def lacks(self, run: Run) -> str | None:
        """Gradient norms of a few steps."""
        return lacks_gradients(run, self.steps)

    def judge(self, run: Run) -> Iterator[Finding]:
        """At most one finding a course, at the first parameter of the model's order."""
        found = (self._of(course) for course in long_enough(run, self.steps))
        yield from once(finding for finding in found if finding is not None)

    def _of(self, course: Course) -> Finding | None:
        values = course.grads.values
        often = (~np.isnan(values)).sum(axis=0) >= self.steps
        zero = often & (largest(values, axis=0) == 0)
        if often.any() and (zero | ~often).all():
            return course.said_of(self._nothing(course))
        frozen = course.frozen or frozenset()  # a gradient of zero is what was asked for there
        zeros = [course.grads.sites[column] for column in np.flatnonzero(zero)]
        sites = [site for site in zeros if site not in frozen]
        weights = [site for site in sites if not is_bias(site)]
        alone = set(map(module_of, sites)) - self._alive(course, zero, often)
        sick = [s for s in sites if s in weights or module_of(s) in alone]
        if not sick:
            return None
        asked = [site for site in sick if site in course.zeroed]
        sick = [site for site in sick if site not in course.zeroed]
        if not sick:
            return course.said_of(self._asked(course, asked))
        alive = [course.grads.sites[column] for column in np.flatnonzero(often & ~zero)]
        learning = {each for site in alive for each in _alike(site)}
        return course.said_of(self._finding(course, sick, learning, len(values)))

    @staticmethod
    def _alive(course: Course, zero: object, often: object) -> set[str]:
        learns = np.asarray(often) & ~np.asarray(zero)
        return {module_of(course.grads.sites[column]) for column in np.flatnonzero(learns)}

    def _finding(self, course: Course, sick: list[str], learning: set[str], steps: int) -> Finding:
        real = [
            site
            for site in sick
            if not BY_DESIGN.search(site) and learning.isdisjoint(_alike(site))
        ]
        site = (real or sick)[0]
        more = f", and so is that of {len(sick) - 1} more parameters" if len(sick) > 1 else ""
        dead, asked = _dead_output(course), next(iter(sorted(course.zeroed)), None)
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN if real else Verdict.NOTE,
            message=f"the gradient of `{site}` is exactly zero in all of {steps} steps{more}"
            + (f"; the output of `{dead}` is zero throughout" if dead else "")
            + (f"; `{asked}` is multiplied by the number 0 before the loss." if asked else "."),
            fix="Look for what multiplies by zero: an input or mask of zeros before it, or units "
            "behind it that never open."
            if real
            else "Nothing, if the sequences are of one position, or it is one of several to choose "
            "from; otherwise look for a state or a key that is never used.",
            site=site,
            phase="backward",
            evidence=(
                Evidence(f"largest gradient norm of `{site}`", 0.0, "over 0"),
                Evidence("parameters like it", len(sick), 0, f"of {len(course.grads.sites)}"),
            ),
        )

    def _asked(self, course: Course, sites: list[str]) -> Finding:
        """What the code takes times 0 has no gradient because it says so."""
        more = f", and so are {len(sites) - 1} more parameters" if len(sites) > 1 else ""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.NOTE,
            message=f"`{sites[0]}` is multiplied by the number 0 before the loss{more}: the "
            f"gradient is exactly zero in all of {len(course.grads.steps)} steps.",
            fix="Nothing, if it is meant to learn nothing; otherwise look for the factor of 0.",
            site=sites[0],
            phase="backward",
            evidence=(
                Evidence(f"largest gradient norm of `{sites[0]}`", 0.0, "over 0"),
                Evidence("parameters times 0", len(sites), 0, f"of {len(course.grads.sites)}"),
            ),
        )

    def _nothing(self, course: Course) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message="the gradient of every parameter is exactly zero in all of "
            f"{len(course.grads.steps)} steps: the loss does not hang on any of them, "
            "or only times zero.",
            fix="Look at the loss: a softmax over one class, a clamp or rounding, a mask that "
            "hides every position; or at what begins as zeros: two factors of one product keep "
            "each other so.",
            site="<loss>",
            phase="backward",
            evidence=(Evidence("largest gradient norm", 0.0, "over 0"),),
        )


def _alike(site: str) -> list[str]:
    """The name with one of its numbers left open, as the same parameter of a sibling has it."""
    spans = [match.span() for match in NUMBER.finditer(site)]
    return [f"{site[:start]}#{site[end:]}" for start, end in spans]


def _dead_output(course: Course) -> str | None:
    """The first site in the order of the forward pass whose output was never anything but 0."""
    dead = np.flatnonzero(largest(course.outputs.values, axis=0) == 0)
    return course.outputs.sites[int(dead[0])] if len(dead) else None
