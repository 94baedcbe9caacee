"""STA020: a search picks the tokens of its hypotheses, and leaves their states as they were."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.modules import every_module
from probes.states.hypotheses import MATTERS, Unpicked, unpicked


@dataclass(frozen=True, slots=True)
class StateNotPicked:
    """A beam search re-orders its tokens by what it chose, and goes on with the old states.

    `predict` and the metrics are watched. In a step of a search the rows of tokens so far are
    picked by what comes of a `topk`, a `sort` or a draw, and some come to stand elsewhere; a state
    with as many rows, made before that choice and otherwise in the rows that moved, meets what was
    made after it, as a cell's state meets the tokens that it reads next; and what comes of both
    makes the next choice, by which the same tokens are picked again. A hypothesis then goes on from
    the state of another. Left alone are searches that pick both, at whichever point, states that
    are the same in all hypotheses of a sample, such as an encoder's memory, and decoding without a
    search, where rows stay.

    Sick: `seqs = seqs[parent]`, and `h = cell(x, h)` in the next step.
    Healthy: `seqs, h = seqs[parent], h[parent]`.
    """

    code: ClassVar[str] = "STA020"
    rule: ClassVar[str] = "state-not-picked"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """What may search."""
        subject = experiment.subject
        if subject.predict is None and not subject.metrics:
            return "no `predict` and no metric, which could search"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        found = unpicked(experiment)
        if found is not None:
            root = next(name for name, _ in every_module(experiment.subject.model))
            yield self._finding(found, root)

    def _finding(self, found: Unpicked, root: str) -> Finding:
        at = f" at {found.source}" if found.source else ""
        inner = [each for each in found.carried if each.site not in (None, root)]
        first = (inner or found.carried)[0]
        sites = sorted({f"`{each.site or root}`" for each in found.carried})
        apart = max(each.apart for each in found.carried)
        shapes = ", ".join(sorted({str(each.shape) for each in found.carried}))
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"hypotheses go on from each other's states: a search picks the tokens so far"
            f"{at}, where {found.moved} of {found.rows} rows come from another row, and what the "
            f"step before gave, of shape {shapes}, is taken over by {', '.join(sites)} as it "
            f"stood, though its rows are up to {100 * apart:.3g}% of its size apart.",
            fix="Pick the rows of every state, cache and context by the index that picks the "
            "tokens, before the next step: `h = h[parent]`.",
            site=first.site or root,
            phase="forward",
            source=found.source,
            evidence=(
                Evidence("rows of tokens that come from another row", found.moved, 0),
                Evidence("how far the state is from the picked one, over its size", apart, MATTERS),
            ),
        )
