"""LBL013: what comes next counts where an episode has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.states.past_the_end import PastTheEnd, past_the_end
from probes.states.through_the_end import Through, through_the_end


@dataclass(frozen=True, slots=True)
class BootstrapsPastTheEnd:
    """A target goes on from the next observation where the episode is over.

    It does so there alone where the flag of the end is multiplied as it is, and not turned round: a
    key that a module reads is changed in the samples whose flag is 0, and then in those whose flag
    is 1: the loss stays in the first, and moves in the second. Flags are told by what they are
    called: `done`, `terminal`, `terminated`; a flag that says that an episode goes on is called
    otherwise. It does so everywhere where nobody reads the flag, and what has no gradient and is
    held against a prediction is a sum of a key and of a constant below 1 times what parameters make
    of another key, with no key to put it out. Ends are the clock's, and a target goes on through
    them rightly, where the reward is as elsewhere, and what comes next is as near, and is acted
    from.

    Sick: `reward + gamma * batch["done"] * target(batch["next_obs"]).max(1).values`;
    `reward + gamma * target(batch["next_obs"]).max(1).values`.
    Healthy: `reward + gamma * (1 - batch["done"]) * target(batch["next_obs"]).max(1).values`.
    """

    code: ClassVar[str] = "LBL013"
    rule: ClassVar[str] = "bootstraps-past-the-end"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss."""
        return experiment.lacks_loss

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a flag."""
        with suppress(ExperimentError):
            yield from (self._finding(each) for each in past_the_end(experiment))
        with suppress(ExperimentError):
            yield from (self._through(each) for each in through_the_end(experiment))

    def _finding(self, each: PastTheEnd) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{each.key}` counts where `{each.flag}` is 1, in {each.read} of {each.count} "
            "samples, and nowhere else: what comes after an end is taken for the future, and "
            "where an episode goes on it has none.",
            fix=f"Multiply by `1 - {each.flag}`; or, if it is 1 where an episode goes on, call it "
            "so.",
            site="<loss>",
            phase="forward",
            evidence=(
                Evidence(f"samples in which `{each.key}` counts", each.read, None, each.flag),
            ),
        )

    def _through(self, each: Through) -> Finding:
        later = ", ".join(f"`{key}`" for key in sorted(each.bootstrap.later))
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"nobody reads `{each.flag}`, by which an episode is over in {each.ends} of "
            f"{each.count} samples, where {each.told} {'is' if ' and ' not in each.told else 'are'}"
            f" otherwise than elsewhere: the target goes on from {later} there as well, and what "
            "comes after an end is taken for the future.",
            fix="Multiply what comes next by 0 where the episode is over, as by "
            f"`1 - {each.flag}` if that is 1 there.",
            site="<loss>",
            phase="forward",
            source=each.bootstrap.source,
            evidence=(Evidence(f"samples that end, by `{each.flag}`", each.ends, 0),),
        )
