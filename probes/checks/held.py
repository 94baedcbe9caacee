"""WIR003: the optimizer does not hold the live parameters, each once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict


@dataclass(frozen=True, slots=True)
class Held:
    """The optimizer holds other parameters than those that get a gradient, or one of them twice.

    None of the model's own is a fault: the optimizer was made for another instance, such as the
    model before `copy.deepcopy`. One that gets a gradient, is not held and does not move is a
    warning; a note where all such stand before all that are held, since to train the end alone
    is a custom of fine-tuning. Parameters that the model does not have, beside its own, are a note.

    Sick: `model.head = nn.Linear(8, 3)` after `Adam(model.parameters())` was made.
    Healthy: the optimizer made last; or `Adam(model.head.parameters())` with all else frozen.
    """

    code: ClassVar[str] = "WIR003"
    rule: ClassVar[str] = "optimizer-holds-others"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing."""
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding for each of: none held, some missing, some twice, strangers."""
        stepped = experiment.stepped
        if not stepped.rates and stepped.strangers:
            yield self._said(
                Verdict.FAIL,
                f"the optimizer holds {stepped.strangers} parameters, and none of them is the "
                "model's: it trains another instance.",
                "Make the optimizer from the model that it is given: "
                "`lambda model: Adam(model.parameters())`.",
                stepped.strangers,
            )
            return
        frozen = experiment.declared.frozen or ("\0",)
        lost = [
            name
            for name, grad in stepped.grads.items()
            if _is_some(grad)
            and name not in stepped.rates
            and name not in stepped.moved
            and not name.startswith(frozen)
        ]
        if lost:
            order = list(stepped.grads)
            begins = bool(stepped.rates) and max(map(order.index, lost)) < min(
                map(order.index, stepped.rates)
            )
            yield self._lost(lost, Verdict.NOTE if begins else Verdict.WARN)
        if stepped.twice:
            yield self._said(
                Verdict.WARN,
                f"the optimizer holds `{stepped.twice[0]}` twice: each step is taken twice.",
                "Put every parameter into one group, once.",
                len(stepped.twice),
            )
        if stepped.strangers:
            yield self._said(
                Verdict.NOTE,
                f"the optimizer holds {stepped.strangers} parameters beside the model's own.",
                "Nothing, where the loss has parameters of its own.",
                stepped.strangers,
            )

    def _lost(self, lost: list[str], verdict: Verdict) -> Finding:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        return self._said(
            verdict,
            f"`{lost[0]}`{more} gets a gradient, but the optimizer does not hold it: it never "
            "learns.",
            "Add it to the optimizer, or freeze it by `requires_grad_(False)`.",
            len(lost),
            lost[0],
        )

    def _said(
        self, verdict: Verdict, message: str, fix: str, count: int, name: str | None = None
    ) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=verdict,
            message=message,
            fix=fix,
            site="<optimizer>" if name is None else name.rpartition(".")[0] or name,
            phase="update",
            evidence=(Evidence("parameters", count),),
        )


def _is_some(grad: Tensor | None) -> bool:
    return grad is not None and bool((grad.to_dense() != 0).any())
