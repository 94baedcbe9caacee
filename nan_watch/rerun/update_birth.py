"""Which operator of an optimizer's update gave birth: the steps run again, it under a ledger."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from nan_watch.capsule.start import Start
from nan_watch.case.optimizers import Setting, odd_setting
from nan_watch.causes.non_finite_setting import blamed
from nan_watch.causes.poisoned_parameter import PoisonedParameter
from nan_watch.origin.events import Event
from nan_watch.origin.kernels import kernels
from nan_watch.origin.ledger import Ledger
from nan_watch.origin.sources import OPTIMIZER
from nan_watch.origin.walk import culprit
from nan_watch.rerun.order import from_batch
from nan_watch.rerun.run import restarted
from probes.finding import Evidence, Finding
from probes.replay import is_finite
from probes.subject import Subject

ROOTS = ("aten.sqrt", "aten._foreach_sqrt")
BELOW_ZERO = (
    "Look at the variance under that root, which fell below zero, as the mean of squares less the "
    "squared mean does by rounding: leave out `centered=True`, or raise `eps` where it is added "
    "under the root."
)


def with_update(finding: Finding, subject: Subject, start: Start) -> Finding:
    """The finding of an update's birth, with its operator and line; as it was where none is found.

    start: what the first step started from.
    """
    step = finding.step
    if step is None or step < start.step:
        return finding
    event, odd = _birth(subject, start, step)
    if odd is not None:
        finding = blamed(finding, odd)
    if event is None:
        said = Evidence(f"the steps run again from step {start.step}", "its update is finite")
        return replace(finding, evidence=(*finding.evidence, said))
    birth = f"`{event.op}`{event.place.at} gives {event.held}"
    message = finding.message
    if finding.code == PoisonedParameter.code:
        message = f"{birth} in the update of step {step}, which poisons {_listed(finding)}."
    if event.op is not None and event.op.removesuffix("_") in ROOTS and event.nan_born:
        finding = replace(finding, fix=BELOW_ZERO)
    return replace(
        finding,
        message=message,
        site=OPTIMIZER,
        op=event.op,
        source=event.place.source,
        evidence=(
            Evidence(f"in the update, run again from step {start.step}", birth),
            *finding.evidence,
        ),
    )


def _birth(subject: Subject, start: Start, step: int) -> tuple[Event | None, Setting | None]:
    """The operator, and the setting that was not finite by itself."""
    loop = restarted(subject, start)
    batches = islice(from_batch(loop.subject.batches, start.step), step - start.step + 1)
    for number, (_, batch) in enumerate(batches, start.step):
        if number < step:
            loop.step(batch)
            continue
        odd = odd_setting(loop.optimizer)
        with kernels(unfused=False), Ledger(loop.model, batch) as ledger:
            loop.step(batch)
        held = [p for group in loop.optimizer.param_groups for p in group["params"]]
        bad = [each for each in (*loop.model.parameters(), *held) if not is_finite(each)]
        roots = [root for each in bad for root in ledger.writers(each)]
        found = culprit(ledger.events, roots)
        return (None if found is None or found[0].op is None else found[0]), odd
    return None, None


def _listed(finding: Finding) -> str:
    """The parameters as the finding's own words begin with them."""
    return finding.message.partition(" became not finite")[0]
