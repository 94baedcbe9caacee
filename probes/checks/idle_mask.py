"""MSK007: a mask that changes nothing, or that nobody reads though it is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.compare import NOISES, Comparison, everywhere
from probes.experiment import Experiment, with_leaf
from probes.finding import Evidence, ExperimentError, Finding, Verdict, resting_on
from probes.masking.hidden import Hidden
from probes.masking.share import true_leaks
from probes.masking.strided import Strided, strided
from probes.masking.visible import differ
from probes.modules import every_module
from probes.place import place
from probes.scoring.ignored_places import ignores
from probes.softmaxes.attended import thrown_away


@dataclass(frozen=True, slots=True)
class IdleMask:
    """Nobody reads a mask whose hidden content is visible; or an attention throws it away.

    Where hidden content leaks (MSK001), the mask is changed: all shown, all turned round. Neither
    loss nor outputs move, so that the mask never reached the model. An attention that masks its
    scores and weighs by the unmasked ones is a note; where more than a share of the weights comes
    of it, MSK001 says so. Where convolutions have strides, a mask that still counts positions as
    they were before hides too little after them: the output of padded samples is the same with all
    of it shown, and another with as many more positions of padding as make one place.

    Sick: `model(input_ids=batch["input_ids"])`, whose batch holds an `attention_mask`.
    Healthy: `model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])`.
    """

    code: ClassVar[str] = "MSK007"
    rule: ClassVar[str] = "idle-mask"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing; attention is looked at even without a mask in the batch."""
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a mask, and one for the attention that throws masks away."""
        done = set()
        for each, found in true_leaks(experiment):
            if each.mask.key in done or ignores(experiment, each):
                continue
            if _is_unread(experiment, each):
                done.add(each.mask.key)
                finding = self._unread(experiment, each, found)
                yield resting_on(finding, [each.guessed] if each.guessed else [])
        for short in strided(experiment):
            if short.each.mask.key not in done:
                guessed = short.each.guessed
                yield resting_on(self._strided(experiment, short), [guessed] if guessed else [])
        sites = thrown_away(experiment)
        if sites:
            yield self._thrown(sites)

    def _unread(self, experiment: Experiment, each: Hidden, found: Comparison) -> Finding:
        where = place(found, experiment.subject.model)
        hidden = int((~each.keep).sum())
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"nobody reads `{each.mask.key}`: shown or hidden, loss and outputs are the "
            f"same, but the {hidden} positions of `{each.key}` that it hides are read "
            f"{where.words}.",
            fix=f"Hand `{each.mask.key}` to `{where.site}`.",
            site=where.site,
            phase="forward",
            evidence=(Evidence("hidden positions", hidden, None, each.mask.key),),
        )

    def _strided(self, experiment: Experiment, short: Strided) -> Finding:
        key, rows = short.each.mask.key, len(short.rows)
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{key}` hides nothing in {rows} of {short.padded} padded samples: with all "
            f"positions shown, `{short.output}` is the same, and with {short.by} more of padding "
            f"it changes by {100 * short.largest:.2g}%, so that padding is read after the strides.",
            fix=f"Count `{key}` in places after the strides: divide lengths by {short.by}, or take "
            "every so many entries of a mask.",
            site=next(every_module(experiment.subject.model))[0],
            phase="forward",
            samples=short.rows[:1],
            evidence=(
                Evidence("padded samples of which it hides nothing", rows, 0),
                Evidence(f"largest change of `{short.output}` with more padding", short.largest),
                Evidence("positions that make one place after the strides", short.by),
            ),
        )

    def _thrown(self, sites: list[str]) -> Finding:
        named = ", ".join(f"`{site}`" for site in sites)
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.NOTE,
            message=f"a mask changes nothing in {named}: the scores are masked, the result is "
            "thrown away, and what is hidden takes its share of the attention.",
            fix="Take the softmax of the masked scores.",
            site=sites[0],
            phase="forward",
            evidence=(Evidence("modules that throw their masked scores away", len(sites), 0),),
        )


def _is_unread(experiment: Experiment, each: Hidden) -> bool:
    limit, before = NOISES * experiment.evaluated.noise, experiment.evaluated.ran
    if each.mask.means == "id":
        return False
    for other in _others(each, experiment.tensors[each.mask.key]):
        try:
            ran = experiment.evaluate(with_leaf(experiment.batch, each.mask.key, other))
        except ExperimentError:
            return False  # what makes it raise is read
        shapes = {name: value.shape for name, value in ran.outputs.items()}
        if any(shapes.get(name) != value.shape for name, value in before.outputs.items()):
            return False
        if differ(before, ran, everywhere, limit):
            return False
    return True


def _others(each: Hidden, values: Tensor) -> Iterator[Tensor]:
    """The mask with everything shown, and turned round, or shorter by one."""
    if each.mask.means == "length":
        yield torch.full_like(values, each.keep.shape[-1])
        yield (values - 1).clamp(min=1)
        return
    yield torch.full_like(values, int(each.mask.means == "keep"))
    yield ~values if values.dtype is torch.bool else (values == 0).to(values.dtype)
