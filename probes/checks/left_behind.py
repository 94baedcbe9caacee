"""WIR058: an averaged copy follows by its parameters, and not by its statistics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.stepping.left_behind import LeftBehind, left_behind


@dataclass(frozen=True, slots=True)
class StatisticsLeftBehind:
    """What `predict` uses has parameters of what learns, and the statistics that it began with.

    A few steps are taken. A part that is built like one that learns, that gets no gradient itself,
    and whose parameters a step moves towards that one's, is an average or a copy of it. Where the
    other's buffers change in those steps, as running means and variances of batch
    normalisation, and its own do not, its weights are used with statistics of other weights.
    Told where the outputs, in evaluation mode, change once it is given the other's buffers. A note
    where the file of `predict` has torch's `update_bn` at hand, which is meant to come once
    training is done. Silence where buffers are copied or averaged as well, where the
    copy runs in training mode itself and so renews them, where its parameters stand still, as of a
    frozen teacher, and where there are no such buffers. A copy that is no part of the model is
    seen where `predict` reaches it by a name of its file or of a function around it.

    Sick: `for e, p in zip(ema.parameters(), model.parameters()): e.lerp_(p, 0.1)`, with BatchNorm.
    Healthy: `for e, p in zip(ema.buffers(), model.buffers()): e.copy_(p)` beside it.
    """

    least: float = 0.01  # share by which the outputs change

    code: ClassVar[str] = "WIR058"
    rule: ClassVar[str] = "statistics-left-behind"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A prediction."""
        known = experiment.subject.predict is not None
        return None if known else "the subject has no `predict`, which says what is evaluated"

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        found = left_behind(experiment)
        if found is not None and found.apart >= self.least:
            yield self._said(found)

    def _said(self, found: LeftBehind) -> Finding:
        site, twin, count = found.site, found.twin, len(found.buffers)
        its, own = found.means
        more = f" and {count - 1} more buffers" if count > 1 else ""
        verb = "stand" if count > 1 else "stands"
        later = "; as yet, since `update_bn` may be to come" if found.later else ""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.NOTE if found.later else Verdict.WARN,
            message=f"`predict` uses `{twin}`, whose parameters follow `{site}`'s, while its "
            f"`{found.farthest}`{more} {verb} still over {found.steps} steps, in which those of "
            f"`{site}` move: a mean of {its:.3g} against {own:.3g}; with `{site}`'s the outputs "
            f"change by {100 * found.apart:.3g}%{later}.",
            fix=f"Copy the buffers as well, `for a, b in zip({twin}.buffers(), {site}.buffers()): "
            "a.copy_(b)`, or renew them by `torch.optim.swa_utils.update_bn` before evaluation.",
            site=twin,
            phase="update",
            source=found.source,
            evidence=(
                Evidence("buffers that stand still", count, 0),
                Evidence(f"distance of `{found.farthest}`, as a share", found.far, 0.0),
                Evidence("share by which the outputs change", found.apart, self.least),
            ),
        )
