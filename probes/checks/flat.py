"""WIR018: a gradient that is exactly zero, step after step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.stepping.cancelled import NARROW, WIDE, cancelled
from probes.stepping.matters import matters
from probes.stepping.saddle import saddle
from probes.stepping.summed_up import summed_up
from probes.stepping.walk import STEPS

FEW = 6  # modules that are named


@dataclass(frozen=True, slots=True)
class Flat:
    """A parameter that the loss depends on gets a gradient of zeros in each of the first steps.

    What comes after is constant there: units that are all dead or saturated from the start, a
    rounding, a sign, an argmax, a weight of zero that gets no gradient itself. One step is not
    enough to tell, since what stands before a weight that starts from zero learns from the second
    on. A parameter that nothing hangs on is silence, such as an expert that no sample goes to; so
    is a bias whose gradients, not zero, add up to it: one score is pushed up, another down.
    Two factors of one product that are both zero are told as that, since then it stays so for good,
    and it is a fault where nothing else learns: each is made something else, which gives the other
    a gradient.
    A matrix whose gradient is rounding alone, and is gone in float64, is told as well: what comes
    after cancels it, as where one share is divided by itself. Vectors are cancelled by design.

    Sick: `nn.init.constant_(layer.bias, -100)` before a ReLU; `head(x.round())`.
    Healthy: an adapter whose second matrix starts from zero; a residual branch that does.
    """

    most: int = 60  # parameters that are changed one by one

    code: ClassVar[str] = "WIR018"
    rule: ClassVar[str] = "gradient-of-zeros"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing."""
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding, at the parameters nearest to the loss."""
        loss = experiment.evaluated.ran.outputs.get(LOSS)
        if loss is not None and float(loss) == 0:
            return  # there is nothing left to learn
        live = dict(experiment.subject.model.named_parameters())
        largest = experiment.walked.largest
        zero = [n for n, size in largest.items() if size == 0 and live[n].requires_grad]
        zero = [n for n in zero if not n.startswith(experiment.declared.frozen or ("\0",))]
        summed = summed_up(experiment, zero)
        zero = [name for name in zero if name not in summed]
        order = list(live)
        zero.sort(key=order.index, reverse=True)
        lost = [name for name in zero[: self.most] if matters(experiment, live[name])]
        if not lost and zero and matters(experiment, *(live[name] for name in zero)):
            lost = zero  # each hangs on the others, as where all weights are zero
        if not lost:
            yield from self._cancelled(experiment)
            return
        if (pair := saddle(experiment, lost)) is not None:
            yield self._product(pair, lost, alone=set(zero) == _trained(live, largest))
            return
        yield self._constant(live, lost, len(largest))

    def _constant(self, live: Mapping[str, Tensor], lost: list[str], count: int) -> Finding:
        """Of the parameters `lost`, nearest to the loss first, among `count` with a gradient."""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"the gradient of `{lost[0]}`{_more(lost)} is exactly zero in each of the "
            f"first {STEPS} steps, though the loss depends on it: what comes after is constant "
            "there.",
            fix="Look behind it for units that are dead or saturated from the start, a rounding, "
            "a sign, an argmax or a weight of zero.",
            site=lost[0].rpartition(".")[0] or lost[0],
            phase="backward",
            evidence=(
                Evidence("parameters with a gradient of zeros", len(lost), 0),
                Evidence("parameters with a gradient", count),
                Evidence("of those of zeros, that hold nothing else", _zeros(live, lost)),
            ),
        )

    def _product(self, pair: tuple[str, str], lost: list[str], alone: bool) -> Finding:
        one, other = pair
        rest = [name for name in lost if name not in pair]
        more = f"; so it is with `{rest[0]}`{_more(rest).rstrip(',')}" if rest else ""
        none = "; nothing else learns" if alone else ""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL if alone else Verdict.WARN,
            message=f"`{one}` and `{other}` begin as zeros, both of them, and are factors of one "
            "product: the gradient of each is a multiple of the other, so that it is exactly zero "
            f"and neither ever leaves it{more}{none}.",
            fix=f"Let one of the two begin at random, as `{other}` might, and the other as zeros: "
            "the product is zero at the start as well, and the zeros get a gradient.",
            site=one.rpartition(".")[0] or one,
            phase="backward",
            evidence=(
                Evidence("parameters with a gradient of zeros", len(lost), 0),
                Evidence(f"`{one}` gets a gradient once it is drawn at random", f"`{other}`"),
                Evidence(f"`{other}` gets a gradient once it is drawn at random", f"`{one}`"),
            ),
        )

    def _cancelled(self, experiment: Experiment) -> Iterator[Finding]:
        frozen = experiment.declared.frozen or ("\0",)
        found = [each for each in cancelled(experiment) if not each.name.startswith(frozen)]
        if not found:
            return
        first, more = found[0], f" and {len(found) - 1} more" if len(found) > 1 else ""
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"the gradient of `{first.name}`{more} is rounding and nothing else, though "
            "the loss depends on it: what comes after cancels it.",
            fix="Look behind it for a share that is divided by itself, a softmax over one entry or "
            "a normalisation of one number; of the experts that are chosen, weigh the outputs by "
            "their own probabilities.",
            site=first.name.rpartition(".")[0] or first.name,
            phase="backward",
            evidence=(
                Evidence(
                    f"gradient of `{first.name}`, of the largest, in float64", first.wide, WIDE
                ),
                Evidence("the same over the first steps in its own float", first.narrow, NARROW),
            ),
        )


def _more(names: list[str]) -> str:
    """How many others there are, and of which modules, the nearest to the loss first."""
    if len(names) == 1:
        return ""
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    if len(modules) == 1 or not all(modules):
        return f" and {len(names) - 1} more"
    few = ", ".join(f"`{name}`" for name in modules[:FEW])
    rest = f" and {len(modules) - FEW} more modules" if len(modules) > FEW else ""
    return f" and {len(names) - 1} more, of {few}{rest},"


def _trained(live: Mapping[str, nn.Parameter], largest: Mapping[str, float]) -> set[str]:
    return {name for name in largest if live[name].requires_grad}


def _zeros(live: Mapping[str, Tensor], names: list[str]) -> int:
    """How many of them hold nothing but zeros, so that one holds the other's gradient at zero."""
    return sum(not bool(live[name].detach().any()) for name in names)
