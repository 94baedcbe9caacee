"""MSK009: decoding step by step gives another output than the whole pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from probes.experiment import Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict, resting_on
from probes.reading.causal import Causal, causal
from probes.scoring.wanted import causal_or_ahead
from probes.states.decoding import from_generated, from_prefix, from_state
from probes.states.in_steps import from_predict
from probes.states.parted import Parted
from probes.states.written import from_written, writes

WAYS: tuple[Callable[[Experiment, Causal, int], Parted | None], ...] = (
    from_prefix,
    from_predict,
    from_state,
    from_generated,
)
OF_ANY = WAYS[:2]  # the others are told of whole keys


@dataclass(frozen=True, slots=True)
class DecodingParity:
    """What a causal model gives under the gold prefix is not what it gives in decoding.

    Five ways to decode are held against the pass over all places: the batch cut after half of
    them, whose last output must be the same; scores that `predict` has step by step from the ids
    of the batch, and that are those of the loss at the first place, so must be at the others; the
    state or cache that the model returned with the first half, given with the second; what
    `model.generate` writes greedily, which must be the likeliest at every place of the pass over
    what was written; and ids that `predict` writes itself, each seen to be the likeliest of its
    step's scores, which must be those that cross entropy is given where the same ids are the
    labels (a warning; ids of a beam search or a draw are the likeliest of no step, and are left
    out). A difference is a leak from the future, or a wrong state or position in decoding.

    Sick: positions that start at zero again when a cache is given.
    Healthy: `position = torch.arange(past, past + steps)`.
    """

    code: ClassVar[str] = "MSK009"
    rule: ClassVar[str] = "decoding-parity"
    family: ClassVar[Literal["check"]] = "check"
    slow: ClassVar[bool] = True

    def lacks(self, experiment: Experiment) -> str | None:
        """A causal output, or ids that are written."""
        if not writes(experiment) and not causal_or_ahead(experiment):
            return (
                "no output is declared causal and no name says so: declare it by "
                "`Layout(reads=(Reads('logits', of='ids', rule='causal'),))`"
            )
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding an output and way."""
        why, done = "", 0
        off = torch.zeros(len(WAYS) + 1, device="cpu")
        for output in writes(experiment):
            written = from_written(experiment, output)
            done += 1
            if written is not None:
                off[-1] = max(float(off[-1]), written.relative)
                yield self._written(output, written)
        known = list(causal(experiment))
        for each in known or causal_or_ahead(experiment):
            half = experiment.tensors[each.key].shape[each.shared - 1] // 2
            whole = each in known and not each.short
            ways = WAYS if whole else OF_ANY
            for i, way in enumerate(ways if half else ()):
                try:
                    found = way(experiment, each, half)
                except ExperimentError as error:
                    why = str(error)
                    continue
                done += 1
                if found is not None:
                    off[i] = max(float(off[i]), found.relative)
                    yield self._finding(each, found)
        names = [way.__name__.replace("_", " ") for way in (*WAYS, from_written)]
        what = "How far outputs made bit by bit are from those made at once, over their own size"
        experiment.keep("decoding-parity-difference", off, ("way",), {"way": names}, what=what)
        if not done:
            raise ExperimentError(f"no shorter batch could be run: {why}")

    def _written(self, output: str, found: Parted) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"decoding gives other `{output}` than the pass over all places: where "
            f"{found.how}; scores are off by {100 * found.relative:.2g}%.",
            fix="Look for a state, position, mask or first id that decoding has otherwise than the "
            "loss. Every id is the likeliest of its step, so that no search or draw explains it; "
            "where decoding is to see other things than training, leave this out by "
            f"`--skip {self.code}`.",
            site=found.site,
            phase="forward",
            samples=(found.sample,),
            where={"sample": found.sample, "token": found.place},
            evidence=(Evidence("largest difference of the scores", found.largest, found.limit),),
        )

    def _finding(self, each: Causal, found: Parted) -> Finding:
        change = Evidence(f"largest difference of `{each.output}`", found.largest, found.limit)
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"decoding gives another `{each.output}` than the pass over all places: where "
            f"{found.how}, it is off by {100 * found.relative:.2g}%.",
            fix="Look for a position, mask or state that does not go on where the kept ones end, "
            "or for an output that reads how long the batch is.",
            site=found.site,
            phase="forward",
            samples=(found.sample,),
            where={"sample": found.sample, "token": found.place},
            evidence=(change,),
        )
        return resting_on(finding, [each.guessed] if each.guessed else [])
