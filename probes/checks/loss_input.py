"""WIR013: a loss function is given what it does not expect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.softmaxes.formed import Use, normalised, places

RAW = ("cross_entropy", "binary_cross_entropy_with_logits", "multilabel_soft_margin_loss")
LOGS = ("nll_loss", "ctc_loss", "kl_div")
RATES = {"exp": "an exp", "softplus": "a softplus"}
NORMALISE = ("softmax", "log_softmax", "logsumexp")


@dataclass(frozen=True, slots=True)
class LossInput:
    """A loss of raw scores is given probabilities, or a loss of log-probabilities is given others.

    Followed in a training step is what softmax and sigmoid give: to a function that applies its
    own (cross entropy, a loss with logits, another softmax), which flattens every gradient; as
    probabilities to a function of log-probabilities (NLL, CTC, KL); and whether the rows that
    NLL and CTC are given are normalised over the classes. What an exp or softplus gives is a rate
    already, and not the logarithm that the Poisson loss expects unless told otherwise.

    Sick: `F.binary_cross_entropy_with_logits(torch.sigmoid(x), y)`; `F.nll_loss(x, y)`.
    Healthy: `F.binary_cross_entropy_with_logits(x, y)`; `F.nll_loss(x.log_softmax(-1), y)`.
    """

    code: ClassVar[str] = "WIR013"
    rule: ClassVar[str] = "loss-input"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing."""
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a line."""
        for use, _ in places(experiment.formed):
            why = _why(use)
            if why is not None:
                yield self._said(use, *why)

    def _said(self, use: Use, what: str, fix: str, verdict: Verdict) -> Finding:
        given = use.given.double()
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=verdict,
            message=f"`{use.name}` is given {what}.",
            fix=fix,
            site=use.site or "<loss>",
            op=use.name,
            phase="forward",
            source=use.source,
            evidence=(
                Evidence("smallest number it is given", float(given.min())),
                Evidence("largest number it is given", float(given.max())),
            ),
        )


def _why(use: Use) -> tuple[str, str, Verdict] | None:
    if use.name in RAW and use.of in ("softmax", "sigmoid"):
        return (
            f"what a {use.of} gives, and applies its own: each gradient is flattened, and the loss "
            "cannot come near 0",
            f"Give `{use.name}` the raw scores.",
            Verdict.FAIL,
        )
    if use.name in RAW and use.of == "log_sigmoid":
        return "what a logsigmoid gives", f"Give `{use.name}` the raw scores.", Verdict.WARN
    if use.name in LOGS and use.of in ("softmax", "sigmoid"):
        return (
            f"what a {use.of} gives, but expects log-probabilities",
            "Give it what `log_softmax` gives.",
            Verdict.FAIL,
        )
    if use.name == "kl_div" and use.target == "log_softmax" and not use.settings.get("log_target"):
        return (
            "a target of log-probabilities, but expects probabilities",
            "Say `log_target=True`, or give it the target's softmax.",
            Verdict.FAIL,
        )
    if use.name == "poisson_nll_loss" and use.of in RATES and use.settings.get("log_input", True):
        return (
            f"what {RATES[use.of]} gives, which is a rate, but takes its exponential, as that of a "
            "rate's logarithm",
            "Say `log_input=False`, or give it the raw scores.",
            Verdict.FAIL,
        )
    if use.name in NORMALISE and use.of == "softmax":
        return (
            "what a softmax gives: applied twice, it leaves all classes nearly even",
            "Apply softmax once, to the raw scores.",
            Verdict.WARN,
        )
    return _unnormalised(use)


def _unnormalised(use: Use) -> tuple[str, str, Verdict] | None:
    """Rows that are no log-probabilities of classes, though the function takes them for such."""
    if use.name not in ("nll_loss", "ctc_loss"):
        return None
    axis = 1 if use.name == "nll_loss" and use.given.ndim > 1 else use.given.ndim - 1
    if use.given.shape[axis] < 2 or normalised(use.given, axis):
        return None
    others = [i for i in range(use.given.ndim) if i != axis and normalised(use.given, i)]
    over = f", but over axis {others[0]}" if others else ""
    if use.of != "log_softmax" and not others and bool((use.given <= 0).all()):
        return None  # such as the likelihoods of a model of its own
    return (
        f"rows that are not normalised over the classes (axis {axis}){over}",
        f"Give it `scores.log_softmax({axis})`.",
        Verdict.FAIL,
    )
