"""WIR009: `(N, 1)` meets `(N,)`, or `(N,)` meets N features: samples meet one another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict, resting_on
from probes.scoring.across import Met, across
from probes.scoring.columns import PAIRS, QUOTIENTS, Column, columns, sizes
from probes.scoring.happens_to_fit import Fit, happens_to_fit


@dataclass(frozen=True, slots=True)
class Broadcast:
    """In the loss, a column of N predictions and a row of N targets become N by N.

    Each prediction is then scored against every target, and the best that can be learned is
    their mean. It is looked for in the subject's own code around the model, where one of the two
    has a gradient and the other has none. Where that is not so, as of an advantage or a weight, it
    is a warning if the column came with its axis, out of a module of one output, a key of the batch
    or `gather`, and the row out of another. Pairs that are meant have an axis that was made for
    them, by `[:, None]`, `unsqueeze` or `keepdim`, or are both of one tensor. So is a comparison in
    a metric, of `keepdim` or `topk` too, as all pairs are then counted.
    One number a sample, `(N,)`, that meets samples of N
    features is told as well, wherever it stands: there the n-th feature of all samples gets the
    n-th sample's number, and with any other size of batch the code would raise. It is known by
    its values, which follow the order of the samples, as those of the last axis do not. Where they
    are drawn, it is known by trying it: with a sample less, the loss raises there. Keys of pairs of
    samples, as a graph's adjacency, are known by the loss, which is the same where their rows and
    columns are in the samples' new order; what meets their columns is meant to. Of a batch that
    cannot be cut, as one of graphs, columns and rows are told of as many entries as a key has rows,
    where they are as many in another batch, too.

    Sick: `F.mse_loss(model(x), y)` with `(N, 1)` and `(N,)`; `returns - critic(x).detach()`.
    Healthy: `F.mse_loss(model(x).squeeze(-1), y)`; `score[:, None] - score`.
    """

    code: ClassVar[str] = "WIR009"
    rule: ClassVar[str] = "column-against-row"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Two samples, or keys of several rows."""
        if not sizes(experiment):
            return "the batch cannot be cut into two samples or more"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding of each kind, at the first such place."""
        if experiment.size:  # else nothing is known that can be laid in another order
            yield from self._in_turn(experiment)
        met_by = columns(experiment)
        for column in ([each for each in met_by if each.told] or met_by)[:1]:
            yield self._column(column, "sample" if experiment.size else "row")

    def _in_turn(self, experiment: Experiment) -> Iterator[Finding]:
        if (met := across(experiment, PAIRS + QUOTIENTS)) is not None:
            yield self._across(met, experiment.size)
        elif (fit := happens_to_fit(experiment)) is not None:
            yield resting_on(self._fits(fit, experiment.size), experiment.samples_guessed)

    def _column(self, column: Column, entry: str) -> Finding:
        n, other = column.size, "target" if column.told else "number"
        named = [", ".join(f"`{each}`" for each in of) for of in (column.column, column.row)]
        within = "" if column.metric is None else f" in the metric `{column.metric}`"
        of = f" (of {named[0]})" * bool(named[0]), f" (of {named[1]})" * bool(named[1])
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL if column.told else Verdict.WARN,
            message=f"`{column.op}`{within} is given ({n}, 1){of[0]} and ({n},){of[1]}, which "
            f"become {n} by {n}: every {entry} meets every other's {other}.",
            fix="Give both the same shape, for example by `.squeeze(-1)`.",
            site="<loss>",
            op=column.op,
            phase="forward",
            source=column.source,
            evidence=(Evidence(f"pairs of {entry}s", n * n, n),),
        )

    def _across(self, met: Met, n: int) -> Finding:
        shape = tuple(met.other.shape)
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"`{met.op}` is given ({n},), one number a sample, and {shape}, whose last "
            "axis is one of features: each feature meets another sample's number.",
            fix="Give it the axes that are missing, for example by `[:, None]`.",
            site="<loss>",
            op=met.op,
            phase="forward",
            source=met.source,
            evidence=(Evidence("features that meet another sample's number", n - 1, 0, f"of {n}"),),
        )

    def _fits(self, fit: Fit, n: int) -> Finding:
        fewer, others = fit.fewer
        behind = len(fit.numbers) - next(i for i, each in enumerate(fit.numbers) if each == n)
        axis = len(fit.other) - behind
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"`{fit.op}` is given {fit.numbers}, one number a sample, and {fit.other}: "
            f"place i on axis {axis} of every sample meets sample i's number. It only fits since "
            f"there are {n} samples: with {n - 1}, {fewer} and {others} do not, and it raises.",
            fix="Give it the axes that are missing, for example by "
            f"`.view({', '.join(['-1', *['1'] * (len(fit.other) - 1)])})`.",
            site="<loss>",
            op=fit.op,
            phase="forward",
            source=fit.source,
            evidence=(
                Evidence(f"places that meet another sample's number on axis {axis}", n - 1, 0),
            ),
        )
