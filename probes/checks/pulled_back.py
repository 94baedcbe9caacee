"""WIR025: what was learned is pulled back to a copy that stands still."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict


@dataclass(frozen=True, slots=True)
class PulledBack:
    """After the optimizer's step, learned parameters are pulled towards a twin that stays put.

    A part that learns, and one that does not and that is built alike and called too, as a target
    network is, are compared just after the optimizer's step and at the end of
    `train_step`. Where the first was moved along the straight line to the second, and the second
    not at all, a moving average goes the wrong way: what is learned fades, and the target never
    follows. Silence where the twin moves, as in an average the right way and in Lookahead; where
    the parameters are clipped, decayed or projected; and where the copy is no network that runs,
    but an anchor.

    Sick: `online.data = tau * online.data + (1 - tau) * target.data` after `optimizer.step()`.
    Healthy: `target.data = tau * target.data + (1 - tau) * online.data`.
    """

    code: ClassVar[str] = "WIR025"
    rule: ClassVar[str] = "pulled-back"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A step of the subject's own."""
        if experiment.subject.train_step is None:
            return "the subject has no `train_step`: whynan's own ends with the optimizer's step"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        pulled = experiment.stepped.pulled
        if pulled is None or not _runs(experiment, pulled.twin):
            return
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"after the optimizer's step `{pulled.site}` is moved "
            f"{100 * pulled.share:.3g}% of the way to `{pulled.twin}`, which does not move: what "
            f"it learns fades, and `{pulled.twin}` never follows.",
            fix=f"Let `{pulled.twin}` be what is written: `{pulled.twin}` = tau * "
            f"`{pulled.twin}` + (1 - tau) * `{pulled.site}`.",
            site=pulled.site,
            phase="update",
            evidence=(
                Evidence("share of the way to the twin", pulled.share, 0.0),
                Evidence(f"parameters of `{pulled.twin}` that move", 0),
            ),
        )


def _runs(experiment: Experiment, place: str) -> bool:
    """Whether the module, or one in it, is called."""
    called = {event.module for event in experiment.evaluated.ran.events}
    return any(each == place or each.startswith(f"{place}.") for each in called)
