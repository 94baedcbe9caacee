"""GRD020: parameters that are not the same on all ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from probes.finding import Evidence, Finding, Verdict
from probes.modules import STATISTICS
from probes.run import Run

Fact = Mapping[str, Any]

DDP = ("ddp", "join")
BY_DESIGN = ("ignored", "parallel", "broadcast")


@dataclass(frozen=True, slots=True)
class Apart:
    """Processes that train one model together hold different numbers in the same parameter.

    A copy that is updated by gradients of its own, or that began elsewhere, is another model, and
    what is saved is that of one rank alone. At each step sums of the parameters' bits ride along
    with what the ranks tell each other. A difference of at most `rounding` of the norm, what is
    averaged later as local SGD does, statistics of a batch norm, and ranks that agree in nothing
    from the start, each with a model of its own, are notes; one that has other numbers from the
    start and gradients of its own beside parameters that are shared may be meant, and is a
    warning, and so is what optimizers write whose states differ since ranks ran out of batches
    inside of `join()`. What is sharded, ignored by its DistributedDataParallel, or marked as
    parallel (`tensor_model_parallel`, or `allreduce` false) is no copy.

    Sick: `DistributedDataParallel(encoder)` with a head beside it, or an optimizer step after
        `backward()` under `no_sync()`, or seeds by rank and gradients averaged by hand.
    Healthy: `DistributedDataParallel(model)`, and `no_sync()` for all but the last part of a step.
    """

    rounding: float = 1e-6

    code: ClassVar[str] = "GRD020"
    rule: ClassVar[str] = "ranks-drift-apart"
    family: ClassVar[Literal["health"]] = "health"

    def lacks(self, run: Run) -> str | None:
        """Several processes that train together."""
        settings = run.facts["settings"]
        staged = settings.get("ranks", 1) > 1
        why = "the processes are stages of a pipeline" if staged else "one process trained alone"
        return None if "apart" in settings else why

    def judge(self, run: Run) -> Iterator[Finding]:
        """At most one finding of parameters, at the first of the worst, and one of statistics."""
        settings = run.facts["settings"]
        facts = [each for each in settings["apart"] if each["held"] not in BY_DESIGN]
        statistics = [each for each in facts if each["site"].endswith(STATISTICS)]
        trained = [each for each in facts if each not in statistics]
        if trained:
            alone = not settings["gradients_agree"] and any(map(_began_alone, trained))
            verdicts = [Verdict.NOTE if alone else self._verdict(each) for each in trained]
            first = trained[verdicts.index(max(verdicts, key=lambda each: each.rank))]
            yield self._finding(first, max(verdicts, key=lambda each: each.rank), len(trained))
        if statistics:
            yield _of_statistics(statistics)

    def _verdict(self, fact: Fact) -> Verdict:
        if _is_joins(fact):
            return Verdict.WARN
        if fact["met"] or fact["held"] == "averager":
            return Verdict.NOTE
        if fact["distance"] is not None and fact["distance"] <= self.rounding:
            return Verdict.NOTE
        meant = _began_alone(fact) or fact["grads"] == "none"
        return Verdict.WARN if meant else Verdict.FAIL

    def _finding(self, fact: Fact, verdict: Verdict, count: int) -> Finding:
        began = fact["since"] is None
        more = f"; {count} parameters are apart" if count > 1 else ""
        far = fact["distance"]
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=verdict,
            message=f"`{fact['site']}` is not the same on all ranks: {_ranks(fact)} "
            f"{_since(fact)}, {_why(fact)}{more}.",
            fix=_fix(fact),
            site=fact["site"],
            phase=None if began else "update",
            step=fact["first"] - (not began),
            evidence=(
                Evidence("parameters that are apart", count, 0),
                *([Evidence("distance over the norm", far, self.rounding)] if far else []),
            ),
        )


def _began_alone(fact: Fact) -> bool:
    """Whether it had other numbers from the start, and gradients of its own or none."""
    return fact["since"] is None and fact["grads"] != "same" and fact["held"] not in DDP


def _is_joins(fact: Fact) -> bool:
    """Whether its optimizer took other steps on some ranks, inside of `join()`."""
    return bool(fact["held"] == "join" and fact["grads"] == "same" and fact["since"] is not None)


def _ranks(fact: Fact) -> str:
    odd = fact["ranks"]
    listed = ", ".join(map(str, odd[:8])) + (", ..." if len(odd) > 8 else "")
    return f"rank {listed} differs" if len(odd) == 1 else f"ranks {listed} differ"


def _since(fact: Fact) -> str:
    if fact["since"] is None:
        return "from the start"
    if fact["first"] - fact["since"] == 1:
        return f"since the update of step {fact['since']}"
    return f"since an update of steps {fact['since']} to {fact['first'] - 1}"


def _why(fact: Fact) -> str:
    if _is_joins(fact):
        return (
            "though its gradient was the same: ranks that had run out of batches inside `join()` "
            "took none of the others' steps, so that optimizer states or rates differ since"
        )
    if fact["met"]:
        return "and it was alike again later"
    if fact["since"] is None:
        return {
            "same": "though its gradient is averaged over the ranks: its start was not broadcast",
            "differ": "and its gradient is each rank's own",
            "none": "and it has no gradient",
        }[fact["grads"]]
    if fact["grads"] == "differ":
        how = "no DistributedDataParallel holds it"
        if fact["held"] in DDP:
            how = "a backward pass under `no_sync()`, or through the model inside its wrapper"
        return f"because its gradient was not averaged over the ranks: {how}"
    if fact["grads"] == "same":
        return "though its gradient was the same: rates or optimizer states differ"
    return "though it had no gradient: other code wrote it"


def _fix(fact: Fact) -> str:
    if _is_joins(fact):
        return (
            "Give every rank as many batches, as by `DistributedSampler(data, drop_last=True)`; "
            "`join()` broadcasts parameters at its end, and no optimizer's state."
        )
    if fact["met"]:
        return "Nothing, if parameters are averaged now and then on purpose."
    if fact["since"] is None and fact["grads"] == "same":
        return (
            "Broadcast the parameters from rank 0 before training, or wrap the model in "
            "DistributedDataParallel, which does so."
        )
    if fact["grads"] == "differ" and fact["held"] in DDP:
        return (
            "Call the DistributedDataParallel, not its `module`, and leave `no_sync()` for the "
            "last backward pass before each step."
        )
    if fact["grads"] == "same":
        return "Give every rank the same rate, schedule and optimizer state."
    return "Put it into the module that DistributedDataParallel wraps, with the rest of the model."


def _of_statistics(facts: list[Fact]) -> Finding:
    site = facts[0]["site"]
    return Finding(
        code=Apart.code,
        rule=Apart.rule,
        verdict=Verdict.NOTE,
        message=f"`{site}` is not the same on all ranks: each keeps the statistics of its own "
        "batches, and what is saved is that of one rank alone.",
        fix="Use SyncBatchNorm, or DistributedDataParallel with `broadcast_buffers=True`.",
        site=site,
        evidence=(Evidence("statistics that are apart", len(facts), 0),),
    )
