"""WIR003: the optimizer does not hold the live parameters, each once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict


@dataclass(frozen=True, slots=True)
class Held:
    """The optimizer holds other parameters than those that get a gradient, or one of them twice.

    None of the model's own is a fault: the optimizer was made for another instance, such as the
    model before `copy.deepcopy`. One that gets a gradient, is not held and does not move in a
    few steps is a warning, unless it is declared frozen; at the optimizer, where that holds others
    that get no gradient: it was made before a module was replaced. Parameters that the model does
    not have, beside its own, are a note.

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
        lost = _lost(experiment)
        if lost and stepped.dead:
            yield self._stale(lost, stepped.dead)
            return
        if lost:
            yield self._unheld(lost)
        for site in _frozen_beside(experiment):
            yield self._said(
                Verdict.WARN,
                f"`{site}` does not require a gradient and is not declared frozen, while its "
                "neighbours learn.",
                f'Let it learn by `requires_grad_(True)`, or add "{site}." to `Layout.frozen`.',
                len(list(experiment.subject.model.get_submodule(site).parameters())),
                site,
            )
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

    def _unheld(self, lost: list[str]) -> Finding:
        declares = ", ".join(f'"{prefix}"' for prefix in _prefixes(lost))
        return self._said(
            Verdict.WARN,
            f"`{lost[0]}`{_more(lost)} gets a gradient, but the optimizer does not hold it: it "
            "never learns.",
            "Add it to the optimizer, or freeze it by `requires_grad_(False)`, or declare that "
            f"it stays as it is by `Layout(frozen=({declares},))`.",
            len(lost),
            _together(lost),
        )

    def _stale(self, lost: list[str], dead: int) -> Finding:
        return self._said(
            Verdict.WARN,
            f"the optimizer holds {dead} parameters that are not the model's and get no gradient, "
            f"but not `{lost[0]}`{_more(lost)}, which gets one and never learns.",
            "Make the optimizer after the last module was put in its place.",
            len(lost),
        )

    def _said(
        self, verdict: Verdict, message: str, fix: str, count: int, site: str = "<optimizer>"
    ) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=verdict,
            message=message,
            fix=fix,
            site=site,
            phase="update",
            evidence=(Evidence("parameters", count),),
        )


def _lost(experiment: Experiment) -> list[str]:
    """What gets a gradient and does not learn, though it is not declared frozen."""
    stepped, frozen = experiment.stepped, experiment.declared.frozen or ("\0",)
    lost = [
        name
        for name, grad in stepped.grads.items()
        if _is_some(grad)
        and name not in stepped.rates
        and name not in stepped.moved
        and not name.startswith(frozen)
    ]
    if lost and experiment.subject.train_step is not None:  # whose other steps may move it
        return [name for name in lost if name not in experiment.walked.moved]
    return lost


def _frozen_beside(experiment: Experiment) -> list[str]:
    """Layers that are frozen and not declared so, though others are, where a sibling learns."""
    declared, model = experiment.declared.frozen, experiment.subject.model
    found = []
    for name, parent in model.named_modules():
        layers = {child: list(module.parameters()) for child, module in parent.named_children()}
        learns = any(p.requires_grad for own in layers.values() for p in own)
        for child, module in parent.named_children() if name and declared and learns else ():
            still = isinstance(module, (nn.Linear, _ConvNd)) and not any(
                p.requires_grad for p in layers[child]
            )
            if still and not f"{name}.{child}.".startswith(declared):
                found.append(f"{name}.{child}")
    return found


def _together(names: list[str]) -> str:
    """The innermost module that holds them all; where that is the model, of the first of them."""
    paths = [name.split(".")[:-1] for name in names]
    shared = [parts[0] for parts in zip(*paths, strict=False) if len(set(parts)) == 1]
    return ".".join(shared or paths[0]) or names[0]


def _prefixes(names: list[str]) -> list[str]:
    """What `Layout.frozen` would say of them, by module at the top where they have no other."""
    tops: dict[str, list[str]] = {}
    for name in names:
        tops.setdefault(name.partition(".")[0], []).append(name)
    return [f"{_together(each)}." if "." in each[0] else top for top, each in tops.items()]


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _is_some(grad: Tensor | None) -> bool:
    return grad is not None and bool((grad.to_dense() != 0).any())
