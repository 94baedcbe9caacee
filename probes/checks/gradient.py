"""WIR011: the gradient is not the derivative of the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.experiment import Experiment, attempted
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.slopes.drawn import drawn_from_parameters
from probes.slopes.enters import Entered, enters
from probes.slopes.functions import Wrong, applied, own_functions, wrong
from probes.slopes.inert import only_adds
from probes.slopes.lost_draw import LostDraw, lost_draw
from probes.slopes.recomputed import Recomputed, recomputed
from probes.slopes.rewritten import slope_along, thrown_away
from probes.slopes.slope import Direction, Exact, Slope, direction, dot
from probes.slopes.uncut import Cut, Cuts

JUMPS = "is constant between jumps, its gradient made up, as by a straight-through estimator"
WAYS = 2  # directions, all of which must disagree


@dataclass(frozen=True, slots=True)
class _Bad:
    """A top-level module whose slope is not what the backward pass says."""

    name: str
    way: Direction
    slope: Slope


@dataclass(frozen=True, slots=True)
class Gradient:
    """What the backward pass gives is not the slope of the loss, in float64.

    The parameters of each top-level module move along a random direction, and the loss with them;
    differences, trusted where two step sizes agree, are compared with what the gradient says, in
    the subject's own mode and with the same draws each time. What disagrees is followed inwards,
    module by module. A wrong backward of the user's own is a fault, and so is what is computed
    again in backward, as in checkpointing, with other draws or another state than in forward;
    what no gradient passes, or `.data` cuts, a warning, and so is a `detach` or `no_grad` around a
    whole term of the loss, whose value moves the loss and no gradient, a normal draw of which mean
    and scale learn nothing but of themselves while weights learn from what fell, and a parameter
    that each pass writes anew, whatever stood there. What the first pass alone writes, as from the
    first batch, stands there before slopes are taken, and what each pass makes of what stood there
    is reckoned with. A `detach` or `no_grad` that leaves other ways back, as around a target, the
    loss that a `train_step` reports and does not minimise, such as the sum of a GAN's two, a
    forward that is constant between jumps (a straight-through estimator), the identity with another
    backward (a reversal) and other draws from parameters are notes.

    Sick: `backward` of x ** 3 that returns `grad * 2 * x`; `x / x.data.norm()`.
    Healthy: `F.gumbel_softmax(x, hard=True)`; `x + (quantised - x).detach()`.
    """

    code: ClassVar[str] = "WIR011"
    rule: ClassVar[str] = "gradient-is-not-the-loss's"
    family: ClassVar[Literal["check"]] = "check"
    slow: ClassVar[bool] = True

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss, and parameters that are to learn."""
        if experiment.lacks_loss is not None:
            return experiment.lacks_loss
        return None if _groups(experiment) else "no parameter is to learn"

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding for each function that is wrong, or one for where it goes wrong."""
        exact = Exact(experiment)
        with exact.float64(), attempted("in float64 the loss"):
            gradient = exact.gradient()
            bad, lost = self._bad(experiment, exact, gradient), thrown_away(exact, gradient)
        held = [name for name in lost if name in experiment.stepped.rates]
        if held:
            yield self._thrown_away(held)
        again = recomputed(experiment) if bad else None
        if again is not None:
            yield self._recomputed(again, max(bad, key=lambda each: abs(each.slope.real or 0.0)))
        elif bad:
            report = not experiment.minimises_loss
            with exact.float64(), attempted("in float64 the loss"):
                yield from self._why(experiment, exact, bad, report)

    def _bad(
        self, experiment: Experiment, exact: Exact, gradient: Mapping[str, Tensor | None]
    ) -> list[_Bad]:
        groups, found, kept = _groups(experiment), [], []
        for name, parameters in groups.items():
            way = _still(exact, direction(parameters, 0))
            slope = slope_along(exact, gradient, way)
            kept.append([slope.back, float("nan") if slope.real is None else slope.real])
            if slope.back == 0 and _moved_by_other_losses(experiment, parameters):
                continue
            if not slope.agree and _disagrees_again(exact, gradient, parameters):
                found.append(_Bad(name, way, slope))
        experiment.keep(
            f"{self.rule.removesuffix('s').replace(chr(39), '')}",
            torch.tensor(kept, dtype=torch.float64, device="cpu"),
            ("module", "slope"),
            {"module": list(groups), "slope": ["backward", "differences"]},
            what="The slope of the loss along one direction, by backward and by differences",
        )
        if all(row[1] != row[1] for row in kept):
            raise ExperimentError("differences of the loss do not settle at any step size")
        return found

    def _why(
        self, experiment: Experiment, exact: Exact, bad: list[_Bad], report: bool
    ) -> Iterator[Finding]:
        functions = _wrong_functions(exact)
        if functions:
            yield from (self._function(each, bad) for each in functions)
            return
        if report:
            yield self._of_a_report(max(bad, key=lambda each: abs(each.slope.real or 0.0)))
            return
        cuts = [each for each in bad if each.slope.back == 0]
        worst = max(cuts or bad, key=lambda each: abs(each.slope.real or 0.0))
        if all(each.slope.flat for each in bad):
            yield self._said(Verdict.NOTE, worst, None, None, f"the loss {JUMPS}")
            return
        place = enters(exact)
        explicit = _explicit(exact, worst)
        if explicit is None or worst.slope.back != 0:
            drawn = drawn_from_parameters(exact)
            lost = lost_draw(exact, _held(experiment))
            if lost is not None:
                yield self._lost(worst, place, explicit, lost)
                return
            if explicit is None and drawn:
                yield self._said(Verdict.NOTE, worst, place, None, "numbers are drawn from it")
                return
        if explicit is not None and worst.slope.back != 0 and only_adds(exact, explicit):
            yield self._said(
                Verdict.WARN, worst, place, explicit.source,
                f"`{explicit.kind}` cuts a whole term of it off: what is computed there moves the "
                "loss, and no gradient hangs on its value",
            )  # fmt: skip
            return
        yield self._cut(worst, place, explicit)

    def _lost(self, bad: _Bad, place: Entered | None, cut: Cut | None, lost: LostDraw) -> Finding:
        nothing = "and what is made of them teaches it nothing"
        better = "`mean + scale * torch.randn_like(scale)`, or `rsample`"
        return self._said(
            Verdict.WARN, bad, place, lost.source if cut is None else cut.source,
            f"numbers are drawn from it by `torch.normal`, {nothing}: draw {better}"
            if cut is None
            else f"{_named(cut)} cuts off the numbers that are drawn from it, {nothing}: leave "
            f"the gradient to {better}",
        )  # fmt: skip

    def _recomputed(self, found: Recomputed, bad: _Bad) -> Finding:
        what = (
            f"draws other numbers (`{found.op}`) than it did in forward"
            if found.op is not None
            else "is given or gives something else than in forward"
        )
        why = f"`{found.site}` is computed again in backward, and {what}"
        return replace(
            self._said(Verdict.FAIL, bad, None, found.source, why),
            site=bad.name if found.site == "<loss>" else found.site,
            fix="Keep the random state for what is computed again: leave "
            "`preserve_rng_state=True`, draw from torch's own generators, or draw outside of what "
            "is checkpointed."
            if found.op is not None
            else "Let what is checkpointed give the same twice: nothing that it counts up, draws "
            "from `random` or numpy, or writes as it is called.",
        )

    def _thrown_away(self, names: list[str]) -> Finding:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"each pass writes `{names[0]}`{more} anew, whatever stands there: no step of "
            "the optimizer lasts.",
            fix="Write it once, as from the first batch, or let it be a buffer.",
            site=names[0].rpartition(".")[0] or "model",
            phase="forward",
            evidence=(Evidence("parameters that are written anew", float(len(names))),),
        )

    def _of_a_report(self, bad: _Bad) -> Finding:
        why = "`train_step` minimises other losses, so that `loss` is a report of them"
        return self._said(Verdict.NOTE, bad, None, None, why)

    def _cut(self, bad: _Bad, place: Entered | None, cut: Cut | None) -> Finding:
        if cut is not None:
            meant = cut.kind != "data" and bad.slope.back != 0
            return self._said(
                Verdict.NOTE if meant else Verdict.WARN, bad, place, cut.source,
                f"{_named(cut)} cuts {'one of its ways' if bad.slope.back else 'the way'} back",
            )  # fmt: skip
        if place is not None and place.slope.flat:
            return self._said(Verdict.NOTE, bad, place, None, f"what follows {JUMPS}")
        if place is None and bad.slope.back != 0:
            return self._said(Verdict.NOTE, bad, None, None, "no call of a module shows where")
        nothing = place is not None and place.slope.back == 0
        return self._said(
            Verdict.WARN, bad, place, None,
            "no gradient comes back from there, though the loss depends on it"
            if nothing or bad.slope.back == 0
            else "what comes back from there is not the derivative",
        )  # fmt: skip

    def _said(
        self, verdict: Verdict, bad: _Bad, place: Entered | None, source: str | None, why: str
    ) -> Finding:
        where = f", {place.words}" if place is not None else ""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=verdict,
            message=f"the gradient of `{bad.name}` is not the loss's{where}: {why}.",
            fix="Nothing, if that is meant."
            if verdict is Verdict.NOTE
            else "Look there for `.detach()`, `.data`, `.item()`, `torch.tensor(...)`, `numpy()`, "
            "`argmax`, or a hook that changes gradients, and compute with the tensor itself.",
            site=place.site if place is not None else bad.name,
            phase="backward",
            source=source,
            evidence=_evidence(bad),
        )

    def _function(self, found: Wrong, bad: list[_Bad]) -> Finding:
        meant = found.flat or (found.identity and found.factor is not None)
        what = (
            "its forward is constant between jumps: a straight-through estimator"
            if found.flat
            else f"it passes its input on, and {_times(found.factor)}"
            if meant
            else f"it gives {_times(found.factor)}"
        )
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.NOTE if meant else Verdict.FAIL,
            message=f"the backward of `{found.name}` is not the derivative of its forward: {what}.",
            fix="Nothing, if that is meant."
            if meant
            else f"Derive `{found.name}.backward` anew, and try `torch.autograd.gradcheck` on it.",
            site=found.site or bad[0].name,
            phase="backward",
            source=found.source,
            evidence=(
                Evidence(f"slope by `{found.name}.backward`", found.back[0], found.real[0]),
                *_evidence(bad[0]),
            ),
        )


def _named(cut: Cut) -> str:
    return {"detach": "`detach`", "data": "`.data`", "no_grad": "`no_grad`"}[cut.kind]


def _held(experiment: Experiment) -> list[Tensor]:
    named = experiment.subject.model.named_parameters()
    held = experiment.stepped.rates
    return [each for name, each in named if each.requires_grad and name in held]


def _times(factor: float | None) -> str:
    if factor is None:
        return "another vector than the derivative"
    return f"{factor:.3g} times the derivative" + (", a reversal" if factor < 0 else "")


def _evidence(bad: _Bad) -> tuple[Evidence, ...]:
    real = bad.slope.real
    return (
        Evidence(f"slope of the loss along `{bad.name}`, by the backward pass", bad.slope.back),
        Evidence("the same by differences", real if real is not None else "unsettled"),
        Evidence("how far off the differences may be", bad.slope.error),
    )


def _groups(experiment: Experiment) -> dict[str, dict[str, Tensor]]:
    """The parameters that are to learn, by top-level module; the model's own each by itself."""
    frozen = experiment.declared.frozen or ("\0",)
    found: dict[str, dict[str, Tensor]] = {}
    held = experiment.stepped.rates
    for name, parameter in experiment.subject.model.named_parameters():
        learns = parameter.requires_grad and not name.startswith(frozen) and parameter.numel()
        if learns and name in held:
            found.setdefault(name.partition(".")[0], {})[name] = parameter
    return found


def _moved_by_other_losses(experiment: Experiment, parameters: Mapping[str, Tensor]) -> bool:
    """Whether the subject's own step gives them a gradient, which `Subject.loss` does not."""
    if experiment.subject.train_step is None:
        return False
    grads = (experiment.stepped.grads.get(name) for name in parameters)
    return any(grad is not None and bool((grad.to_dense() != 0).any()) for grad in grads)


def _still(exact: Exact, way: Direction) -> Direction:
    """The direction, but for padding rows of embeddings, which get no gradient by design."""
    for name, module in exact.model.named_modules():
        rows = way.get(f"{name}.weight" if name else "weight")
        if rows is not None and getattr(module, "padding_idx", None) is not None:
            rows[module.padding_idx] = 0
    return way


def _disagrees_again(
    exact: Exact, gradient: Mapping[str, Tensor | None], parameters: Mapping[str, Tensor]
) -> bool:
    ways = [_still(exact, direction(parameters, seed)) for seed in range(1, WAYS)]
    return not any(slope_along(exact, gradient, way).agree for way in ways)


def _wrong_functions(exact: Exact) -> list[Wrong]:
    own: list[type[torch.autograd.Function]] = []
    exact.gradient(look=lambda loss: own.extend(own_functions(loss)))
    if not own:
        return []
    with applied(exact.model, own) as calls:
        exact.value()
    return wrong(calls)


def _explicit(exact: Exact, bad: _Bad) -> Cut | None:
    """The cut without which the gradient is the loss's; None where there is none."""
    seen = Cuts()
    exact.gradient(around_loss=seen)

    def cured(*undone: Cut) -> bool:
        try:
            gradient = exact.gradient(around_loss=Cuts(lambda cut: cut in undone))
        except Exception:
            return False  # it cannot be done without
        slope = bad.slope
        return Slope(dot(gradient, bad.way), slope.real, slope.error, False).agree

    if not seen.seen or not cured(*seen.seen):
        return None
    alone = (cut for cut in seen.seen if cured(cut))
    return next(alone, next(iter(seen.seen)))
