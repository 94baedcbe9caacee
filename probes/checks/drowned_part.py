"""WIR015: one term of the loss drowns another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.compare import NOISES
from probes.experiment import Experiment, attempted, copied, with_leaf
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.replay import Snapshot, replay
from probes.subject import Batch
from probes.vary import vary


@dataclass(frozen=True, slots=True)
class DrownedPart:
    """Two terms of the loss that are scored against labels differ widely in their gradients.

    The gradient of each of `Subject.parts` is taken with respect to the parameters that all of
    them reach; from `far` times on, the shared layers follow the larger one alone. It is a
    warning where both terms move with what no output reads, such as labels; a note where one does
    not, as a penalty or a divergence, and where the loss itself weighs the smaller one less.

    Sick: the mean over 5 answers beside a mean that is divided by all 5000 outputs.
    Healthy: each term a mean over its own answers; a divergence that begins near zero.
    """

    far: float = 20.0

    code: ClassVar[str] = "WIR015"
    rule: ClassVar[str] = "drowned-part"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Two parts."""
        if len(experiment.subject.parts) < 2:
            return "`Subject.parts` does not name two terms of the loss"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding, of the smallest term beside the largest."""
        names = list(experiment.subject.parts)
        grads = [_gradient(experiment, name, experiment.batch) for name in names]
        shared = [n for n in grads[0] if all(bool(g.get(n, _NONE).any()) for g in grads)]
        if not shared:
            raise ExperimentError("there is no parameter that all parts reach")
        joined = torch.stack([torch.cat([g[n].flatten() for n in shared]) for g in grads])
        norms = joined.norm(dim=1)
        experiment.keep(self.rule, norms, ("part",), {"part": names})
        small, large = int(norms.argmin()), int(norms.argmax())
        times = float(norms[large] / norms[small])
        if not times >= self.far:
            return
        scored = all(_is_scored(experiment, names[i]) for i in (small, large))
        weights = _weights(experiment, joined, shared)
        chosen = weights is not None and abs(float(weights[large])) > self.far / 4 * abs(
            float(weights[small])
        )
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN if scored and not chosen else Verdict.NOTE,
            message=f"`{names[large]}` drowns `{names[small]}`: its gradient on the {len(shared)} "
            f"parameters that they share is {times:.3g} times as large.",
            fix="Nothing, if the smaller one is a penalty, or weighed so on purpose."
            if not scored or chosen
            else f"Look by what `{names[small]}` is divided: a mean over its own answers, and not "
            "over all outputs or places; else weigh the two.",
            site="<loss>",
            phase="backward",
            evidence=(
                Evidence(f"gradient of `{names[large]}`", float(norms[large])),
                Evidence(f"gradient of `{names[small]}`", float(norms[small])),
                Evidence("times as large", times, self.far),
            ),
        )


_NONE = torch.zeros(1)


def _gradient(experiment: Experiment, name: str | None, batch: Batch) -> dict[str, Tensor]:
    """Of a part, or of the loss itself, by parameter; in evaluation mode, without draws."""
    subject = experiment.subject
    function = subject.loss if name is None else subject.parts[name]
    what = "`Subject.loss`" if name is None else f"`Subject.parts[{name!r}]`"

    def step() -> Tensor:
        model = subject.model.eval()
        with attempted(what):
            loss = function(model, copied(batch))
        if loss.requires_grad:
            loss.backward()
        return loss

    done = replay(step, subject.model, Snapshot.take(subject.model))
    return {n: g.to_dense().double() for n, g in done.grads.items() if g is not None}


def _is_scored(experiment: Experiment, name: str) -> bool:
    """Whether a part moves with a key that no output reads, as labels are."""
    value, model = experiment.subject.parts[name], experiment.subject.model

    def of(batch: Batch) -> Tensor:
        def step() -> Tensor:
            with attempted(f"`Subject.parts[{name!r}]`"), torch.no_grad():
                return value(model.eval(), copied(batch))

        return replay(step, model, Snapshot.take(model)).loss

    before = of(experiment.batch)
    for key in _unread(experiment):
        other = vary(experiment.tensors[key], torch.ones((), dtype=torch.bool))
        if other is None:
            continue
        try:
            after = of(with_leaf(experiment.batch, key, other))
        except ExperimentError:
            continue
        if abs(float(after - before)) > NOISES * experiment.evaluated.noise:
            return True
    return False


def _unread(experiment: Experiment) -> Iterator[str]:
    """The declared or guessed labels, then the other keys that no output reads."""
    known = [each.key for each in experiment.layout.labels if each.key in experiment.tensors]
    yield from known
    for key, tensor in experiment.tensors.items():
        if key not in known and _is_unread(experiment, key, tensor):
            yield key


def _is_unread(experiment: Experiment, key: str, tensor: Tensor) -> bool:
    other = vary(tensor, torch.ones((), dtype=torch.bool))
    if other is None:
        return False
    try:
        ran = experiment.evaluate(with_leaf(experiment.batch, key, other))
    except ExperimentError:
        return False
    return all(
        name in ran.outputs and torch.equal(ran.outputs[name], value)
        for name, value in experiment.outputs.items()
    )


def _weights(experiment: Experiment, parts: Tensor, shared: list[str]) -> Tensor | None:
    """By what the loss weighs each part; None where it is not made of them."""
    whole = _gradient(experiment, None, experiment.batch)
    if not all(name in whole for name in shared):
        return None
    wanted = torch.cat([whole[name].flatten() for name in shared])
    scale = parts.norm(dim=1)
    ways = parts / scale[:, None]
    mixed = ways @ ways.T + 1e-12 * torch.eye(len(ways), dtype=ways.dtype)
    found = torch.linalg.solve(mixed, ways @ wanted)
    return None if (ways.T @ found - wanted).norm() > 0.01 * wanted.norm() else found / scale
