"""WIR006: training mode where the model predicts, or evaluation mode where it trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._python_dispatch import TorchDispatchMode

from probes.compare import Comparison
from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.operators.drawn_targets import DrawnTargets
from probes.place import place
from probes.scoring.gold_at_random import Gold, gold_at_random
from probes.scoring.picked_at_random import MOVES, SPREAD, Picked, picked_at_random
from probes.stepping.one_step import step_under
from probes.subject import Subject

DRAWS = ("aten.bernoulli", "aten.native_dropout")


class _Drawn(TorchDispatchMode):
    """Counts the operators that drop."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += str(func).startswith(DRAWS)
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True, slots=True)
class Modes:
    """Dropout is at work in evaluation, or the model is in evaluation mode while it trains.

    In evaluation mode the batch runs from two random states: where outputs differ and an operator
    drops, that is a warning; where they differ by other draws, such as a sampler's, a note. It is
    a warning, too, where the draw decides whether `predict` is fed a label or its own output: from
    one random state other labels at a place move what comes after it, from another they do not.
    And where a draw that picks or orders, not noise that is added, moves the scores that classes
    of the batch are held against by a share of what different samples differ by. Several of many,
    such as neighbours or patches, are an estimate, and stay a note.
    In a training step the mode of the whole model is read as it is called: evaluation mode is a
    warning where there is dropout or batch norm. Parts alone may be: a frozen encoder.
    Dropout at work in what is not trained is a warning where the loss compares with what comes of
    it, as with a teacher's outputs: `model.train()` reached that part, and its targets are drawn
    anew each time. It is silence where a layer that learns reads it, or where that part follows
    what is trained; and a note where it is a copy of that, or drawn from several times.

    Sick: `model(source, target)` in `predict`, with the ratio of teacher forcing left at 0.5;
    farthest points from a start that `torch.randint` draws, whatever the mode;
    `F.dropout(x, 0.1)` without `training=self.training`; a frozen `self.teacher` that
    `self.train()` puts into training mode.
    Healthy: `nn.Dropout(0.1)`, and `model.train()` before each step; `self.teacher.eval()` after.
    """

    code: ClassVar[str] = "WIR006"
    rule: ClassVar[str] = "wrong-mode"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing."""
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most two findings for evaluation, one for training, and one for targets."""
        yield from self._evaluation(experiment)
        yield from self._training(experiment)
        yield from self._targets(experiment)

    def _evaluation(self, experiment: Experiment) -> Iterator[Finding]:
        baseline, drawn = experiment.evaluated, _Drawn()
        found = baseline.against(experiment.reseeded)
        gold = gold_at_random(experiment)
        if gold is not None:
            yield self._gold(gold)
        if not found.outputs:
            return
        with drawn:
            experiment.evaluate(experiment.batch)
        where = place(found, experiment.subject.model)
        drops = drawn.count > 0
        if gold is not None and not drops:
            return
        picked = None if drops else _picked(experiment, found)
        if picked is not None:
            yield self._pick(picked, where.site)
            return
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN if drops else Verdict.NOTE,
            message=f"in evaluation mode the output still hangs on the random state, from "
            f"{where.words}: " + ("dropout is at work." if drops else "it draws numbers."),
            fix="Give `training=self.training` (or `dropout_p=0.0`) where it drops by a function."
            if drops
            else "Nothing, if the model samples on purpose.",
            site=where.site,
            phase="forward",
            evidence=(_largest(found),),
        )

    def _gold(self, gold: Gold) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message="in evaluation mode a draw decides where `predict` is fed the labels in "
            f"`{gold.key}`, and where its own outputs: other labels at a place move what comes "
            "after it from one random state, and nothing from another.",
            fix="Predict without the labels: give the model a ratio of teacher forcing of 0 there, "
            "or let it draw `if self.training` alone.",
            site="model",
            phase="forward",
            source=gold.source,
            evidence=(
                Evidence(f"largest share by which labels move the {gold.output}", gold.share, 0),
                Evidence("share of the places tried that was read", gold.read, 0),
            ),
        )

    def _pick(self, picked: Picked, site: str) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message="in evaluation mode what is picked at random decides the output, which is "
            f"scored against the classes in `{picked.key}`: from one draw to another the scores "
            f"of a sample move by {picked.spread:.2g} of what different ones differ by, so that "
            "two predictions of one sample differ.",
            fix="Pick by a rule in evaluation mode, such as the first, and draw only where "
            "`self.training` is set; nothing, if it is to be drawn anew each time.",
            site=site,
            phase="forward",
            source=picked.source,
            evidence=(
                Evidence("how far scores move by the draw, of their size", picked.share, MOVES),
                Evidence("of what different samples differ by", picked.spread, SPREAD),
            ),
        )

    def _training(self, experiment: Experiment) -> Iterator[Finding]:
        training = experiment.stepped.training
        model = experiment.subject.model
        kinds = [type(m).__name__ for m in model.modules() if _has_modes(m)]
        if training.get("", True) or not kinds:
            return
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"the model is in evaluation mode in a training step: {len(kinds)} modules "
            f"({', '.join(sorted(set(kinds)))}) do not do what they are there for.",
            fix="Call `model.train()` before each training step; `from_pretrained` returns a model "
            "in evaluation mode, and an evaluation leaves it there.",
            site="model",
            phase="forward",
            evidence=(Evidence("modules that act by mode", len(kinds), 0),),
        )

    def _targets(self, experiment: Experiment) -> Iterator[Finding]:
        stepped, model = experiment.stepped, experiment.subject.model
        trained = stepped.moved | {name for name, g in stepped.grads.items() if g is not None}
        drawn = DrawnTargets(model, trained)
        subject = _in_training(experiment.subject) if model.training else experiment.subject
        step_under(subject, experiment.batch, drawn)
        found = [each for each in drawn.drops if each.is_target and drawn.standing(each)]
        if not found:
            return
        first, on_purpose = found[0], any(each.again or drawn.is_twin(each) for each in found)
        part = f"`{first.part}`" if first.part else "what is called, and is no part of the model,"
        undone = not stepped.training.get(first.site or "", True)
        is_put = (
            "`model.train()` puts it, which is in evaluation mode, back into training mode: "
            "dropout is then"
            if undone
            else "it is in training mode in a training step: dropout is"
        )
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.NOTE if on_purpose else Verdict.WARN,
            message=f"{part} is not trained, and {is_put} at work in {len(found)} places of it, "
            f"from `{first.site or '<loss>'}` on, and the loss compares with what comes of it, so "
            "that its targets are drawn anew each time.",
            fix=f"Put {part} into evaluation mode after each `model.train()`, as by a `train` of "
            "the model's own that calls `eval()` of it; nothing, if the noise is on purpose.",
            site=first.site or "<loss>",
            phase="forward",
            source=first.source,
            evidence=(Evidence("largest share that is dropped", max(d.rate for d in found), 0),),
        )


def _picked(experiment: Experiment, found: Comparison) -> Picked | None:
    """Where a prediction moves, too, and not the loss alone."""
    moved = any(
        each.site != LOSS and (each.relative > MOVES or not _is_float(experiment, each.site))
        for each in found.outputs
    )
    if not moved or experiment.lacks_loss is not None:
        return None
    try:
        return picked_at_random(experiment)
    except ExperimentError:
        return None


def _is_float(experiment: Experiment, name: str) -> bool:
    return experiment.outputs[name].is_floating_point()


def _in_training(subject: Subject) -> Subject:
    """The same, whose model is put into training mode before each step, as by most loops."""
    loss, step = subject.loss, subject.train_step
    if step is None:
        return replace(subject, loss=lambda model, batch: loss(model.train(), batch))
    return replace(
        subject,
        train_step=lambda model, batch, optimizer: step(model.train(), batch, optimizer),
    )


def _has_modes(module: nn.Module) -> bool:
    drops = isinstance(module, _DropoutNd) and module.p > 0
    return drops or (isinstance(module, _BatchNorm) and module.track_running_stats)


def _largest(found: Comparison) -> Evidence:
    worst = max(found.outputs, key=lambda each: each.largest)
    what = "loss" if worst.site == LOSS else f"`{worst.site}`"
    return Evidence(f"difference of the {what}", worst.largest, worst.limit)
