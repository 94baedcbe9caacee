"""WIR042: the score of a path that is none of those that it is normalised by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.ancestry import leaves_behind, nodes_behind
from probes.batch import take
from probes.experiment import Experiment, attempted, copied
from probes.finding import Evidence, Finding, Verdict
from probes.replay import Snapshot, replay
from probes.scoring.partition import Excess, Partitions

FEW = 2  # samples, which a model can memorise
ROUNDS = 10
EACH = 8  # iterations of a round
LARGE, LARGE_ROUNDS = 1_000_000, 3  # numbers of a model, of which so many rounds are too slow


@dataclass(frozen=True, slots=True)
class OutsidePartition:
    """The log of a sum over all paths, minus the score of one of them, falls below zero.

    As of a conditional random field: where the path is one of those that are summed over, it never
    is. The sum is one of a recursion, logs of sums of exponentials within each other, the loss is
    its mean, or another sum of it of weights without gradients; then the parameters are searched
    for such that it is below zero for a few samples. Where it is, the path has other transitions,
    ends or places than the sum, training can do that for ever, and learns what no decoding finds.
    Sums over a beam, and over what the path itself sums over, are left out.

    Sick: `score += trans[tags[:, t], tags[:, t - 1]]`, where the sum has `trans[from, to]`.
    Healthy: `score += trans[tags[:, t - 1], tags[:, t]]`.
    """

    below: float = 0.05
    rounding: float = 1e-5  # of the log of the sum

    code: ClassVar[str] = "WIR042"
    rule: ClassVar[str] = "outside-the-partition"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss."""
        return experiment.lacks_loss

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        found: list[Finding] = []
        model, batch = experiment.subject.model, experiment.batch
        few = take(batch, range(FEW), experiment.layout) if experiment.size > FEW else batch

        def step() -> Tensor:
            model.eval()
            with torch.enable_grad():
                found.extend(self._searched(experiment.of_batch(few)))
            return torch.zeros(())

        replay(step, model, Snapshot.take(model, parameters=True))
        yield from found

    def _searched(self, experiment: Experiment) -> Iterator[Finding]:
        parameters = [p for p in experiment.subject.model.parameters() if p.requires_grad]
        excesses, _ = _excesses(experiment) if parameters else ([], None)
        if not excesses:
            return
        before = float(_mean(excesses).detach())
        search = torch.optim.LBFGS(parameters, max_iter=EACH, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            search.zero_grad()
            total = _mean(_excesses(experiment)[0])
            total.backward()
            return total

        large = sum(p.numel() for p in parameters) > LARGE
        for _ in range(LARGE_ROUNDS if large else ROUNDS):
            search.step(closure)
            excesses, partitions = _excesses(experiment)
            least = float(_mean(excesses).detach()) if excesses else 0.0
            size = max((float(each.whole.detach().abs().max()) for each in excesses), default=0.0)
            if least < -max(self.below, self.rounding * size):
                yield self._said(experiment, excesses, partitions, before, least)
                return

    def _said(
        self,
        experiment: Experiment,
        excesses: Sequence[Excess],
        partitions: Partitions,
        before: float,
        least: float,
    ) -> Finding:
        table, source = _culprit(excesses, partitions)
        names = {id(p): name for name, p in experiment.subject.model.named_parameters()}
        name = names.get(id(table)) if table is not None else None
        told = f": `{name}` adds to it what it adds to no path of the sum" if name else ""
        first = excesses[0]
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"the loss, the log of a sum over paths minus the score of one, falls to "
            f"{least:.3g}: that path is none of those that are summed over{told}.",
            fix="Score the path by the same entries as the sum, such as `transitions[from, to]` in "
            "both, the same start, end, and places of padding.",
            site=(name.rpartition(".")[0] or "model") if name else first.site or "<loss>",
            phase="forward",
            source=source or first.source,
            evidence=(
                Evidence("loss at the start", before),
                Evidence("loss at other parameters, which cannot be below zero", least, 0),
            ),
        )


def _excesses(experiment: Experiment) -> tuple[list[Excess], Partitions]:
    subject = experiment.subject
    partitions = Partitions(subject.model)
    with attempted("`Subject.loss`"), partitions:
        loss = subject.loss(subject.model, copied(experiment.batch))
    return partitions.excesses(loss), partitions


def _mean(excesses: Sequence[Excess]) -> Tensor:
    each = [(one.whole - one.path).flatten() for one in excesses]
    return torch.cat(each).mean()


def _culprit(
    excesses: Sequence[Excess], partitions: Partitions
) -> tuple[Tensor | None, str | None]:
    """The tensor that gives the path more than it gives the sum, and the line that picks from it.

    What each gives is its entries, times how often they are in it: the gradient.
    """
    tables = list({id(each.kept): each for each in reversed(partitions.picks)}.values())
    if not tables:
        return None, None
    kept = [each.kept for each in tables]
    slopes = [
        torch.autograd.grad(total, kept, allow_unused=True, retain_graph=True)
        for total in (
            torch.stack([each.whole.sum() for each in excesses]).sum(),
            torch.stack([each.path.sum() for each in excesses]).sum(),
        )
    ]
    given = []
    for table, whole, path in zip(kept, *slopes, strict=True):
        if path is not None and (whole is not None or table.is_leaf):
            more = path if whole is None else path - whole
            given.append((float((more * table.detach()).sum()), table))
    upstream = _behind([table for _, table in given])
    last = [each for each in given if id(each[1]) not in upstream]
    if not last:
        return None, None
    worst = max(last, key=lambda each: each[0])[1]
    return worst, next(each.source for each in tables if each.kept is worst)


def _behind(tables: Sequence[Tensor]) -> set[int]:
    """Ids of those that another one is computed from, such as a layer's state before scores."""
    found: set[int] = set()
    for table in tables:
        nodes = {*nodes_behind(table)} - {table.grad_fn}
        leaves = {id(each) for each in leaves_behind(table)} - {id(table)}
        found |= {id(each) for each in tables if each.grad_fn in nodes or id(each) in leaves}
    return found
