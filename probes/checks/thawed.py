"""WIR005: what is frozen moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.states.life import Life
from probes.stepping.mixed_in_frozen import Mixed, mixed
from probes.stepping.one_step import one_step


@dataclass(frozen=True, slots=True)
class Thawed:
    """A step changes a parameter that is declared frozen, or the statistics of a frozen module.

    A parameter without `requires_grad` that the optimizer's step moves is a warning, and
    running statistics of a module that is frozen as a whole are a note, or a warning where the
    layout declares it frozen: `eval()` would keep them. They are a warning too where the module
    was in evaluation mode, what learns was not, and the step itself calls `train()` on it. So they
    are where all of what is frozen was left in training mode after it had seen data, nothing of it
    moves or is held by the optimizer, and layers that learn read features of it that change with
    the others of the batch by `mixes` of their spread. Where batch norms alone are in training
    mode, or it is a copy of what learns, or a teacher, statistics may be meant to follow: a note.
    What the optimizer does not move may be moved by others, such as a teacher's average. A module
    or parameter that was given `requires_grad = False` to no effect, since torch reads no such
    attribute of it, is a warning.

    Sick: `model.encoder.requires_grad = False`; `Layout(frozen=("encoder.",))` and no more.
    Healthy: the same with `model.encoder.requires_grad_(False)`.
    """

    mixes: float = 0.1

    code: ClassVar[str] = "WIR005"
    rule: ClassVar[str] = "frozen-moves"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Something frozen."""
        parameters = dict(experiment.subject.model.named_parameters())
        if experiment.declared.frozen or not all(p.requires_grad for p in parameters.values()):
            return None
        if _in_vain(experiment.subject.model):
            return None
        return "nothing is frozen: every parameter requires a gradient, and none is declared"

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding for attributes without effect, one for parameters, one for statistics."""
        if vain := _in_vain(experiment.subject.model):
            yield self._vain(*vain)
        stepped, declared = experiment.stepped, experiment.declared.frozen or ("\0",)
        model = experiment.subject.model
        parameters = dict(model.named_parameters())
        moved = [name for name in parameters if name in stepped.moved]
        told = [name for name in moved if name.startswith(declared)]
        still = [name for name in moved if name in stepped.thawed]
        if told:
            yield self._said(Verdict.FAIL, told, "is declared frozen")
        elif still:
            yield self._said(Verdict.WARN, still, "does not require a gradient")
        statistics = [
            name
            for name in sorted(stepped.buffers)
            if name.startswith(declared) or _is_frozen(model, name.rpartition(".")[0])
        ]
        meant = [name for name in statistics if name.startswith(declared)]
        if meant and not told and meant[0] in _moved_in_training(experiment):
            yield self._said(Verdict.WARN, meant, "stands in what is declared frozen")
        elif switched := [name for name in statistics if _was_in_eval(model, name)]:
            yield self._switched(switched)
        elif statistics:
            found = mixed(experiment, statistics[0])
            sick = found is not None and found.share >= self.mixes
            if found is not None and sick and statistics[0] in _moved_in_training(experiment):
                yield self._mixed(found, statistics)
            else:
                yield self._said(Verdict.NOTE, statistics, "stands in a frozen module")

    def _mixed(self, found: Mixed, names: list[str]) -> Finding:
        part = found.part
        names = [name for name in names if not name.endswith("num_batches_tracked")] or names
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{part}` is frozen and was left in training mode: what `{found.reader}` "
            f"reads of a sample hangs on the {found.others} others of its batch, by "
            f"{100 * found.share:.0f}% of what samples differ by, and a step changes "
            f"`{names[0]}`{_more(names)}, which evaluation reads.",
            fix=f"Let `train()` of the model leave it in evaluation mode: `self.{part}.eval()`. If "
            "its statistics are to follow these data, put batch norms alone into training mode.",
            site=part,
            phase="forward",
            evidence=(
                Evidence("change of a sample's features with its batch", found.share, self.mixes),
                Evidence("statistics that a step changes", len(names), 0),
            ),
        )

    def _switched(self, names: list[str]) -> Finding:
        place = names[0].rpartition(".")[0]
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{place}` is frozen and was in evaluation mode, and the step puts it into "
            f"training mode: `{names[0]}`{_more(names)} changes in it.",
            fix="Let `train()` of the model leave what is frozen in `eval()`, or call "
            f"`{place}.eval()` after each `train()`.",
            site=place,
            phase="update",
            evidence=(Evidence("statistics that the switch sets moving", len(names), 0),),
        )

    def _vain(self, name: str, typed: str) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{name}.{typed} = False` has no effect: what was to be frozen learns.",
            fix=f"Call `{name}.requires_grad_(False)`.",
            site=name,
            phase="update",
            evidence=(Evidence(f"`{name}.{typed}`", "False"),),
        )

    def _said(self, verdict: Verdict, names: list[str], why: str) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=verdict,
            message=f"`{names[0]}`{_more(names)} {why}, and one step changes it.",
            fix="Set `requires_grad_(False)` on it, leave it out of the optimizer, and put its "
            "module into `eval()` where it keeps running statistics.",
            site=names[0].rpartition(".")[0] or names[0],
            phase="update",
            evidence=(Evidence("tensors that move", len(names), 0),),
        )


def _moved_in_training(experiment: Experiment) -> frozenset[str]:
    """The buffers that a step changes once `train()` was called, as loops do before an epoch."""
    subject = Life(experiment).subject
    subject.model.train()
    return one_step(subject, experiment.step_batch).buffers


def _in_vain(model: nn.Module) -> tuple[str, str] | None:
    """The first module or parameter that was to be frozen by an attribute that nobody reads."""
    things: list[tuple[str, object]] = [*model.named_modules(), *model.named_parameters()]
    for name, thing in things:
        learns = [thing] if isinstance(thing, nn.Parameter) else _parameters(thing)
        for typed in ("requires_grad", "require_grad", "required_grad", "requires_gradient"):
            said = vars(thing).get(typed) is False
            if said and any(p.requires_grad for p in learns):
                return name or "model", typed
    return None


def _parameters(thing: object) -> list[nn.Parameter]:
    return list(thing.parameters()) if isinstance(thing, nn.Module) else []


def _is_frozen(model: nn.Module, place: str) -> bool:
    """Whether it, or where it has no parameters the next around it that has, is so as a whole."""
    own = list(model.get_submodule(place).parameters())
    if not own and place:
        return _is_frozen(model, place.rpartition(".")[0])
    return bool(own) and not any(p.requires_grad for p in own)


def _was_in_eval(model: nn.Module, name: str) -> bool:
    """Whether its module is in evaluation mode between steps, and what learns in training mode."""
    learning = (m for m in model.modules() if any(p.requires_grad for p in m.parameters(False)))
    still = not model.get_submodule(name.rpartition(".")[0]).training
    return still and any(module.training for module in learning)


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
