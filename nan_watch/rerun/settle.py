"""What earlier steps did: settled by running them again from the start, with one thing changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from nan_watch.capsule.start import Start
from nan_watch.case.first import HUNT
from nan_watch.causes.exploding_recurrence import ExplodingRecurrence
from nan_watch.causes.step_too_large import StepTooLarge
from nan_watch.rerun.kept import oldest_since
from nan_watch.rerun.run import rerun
from nan_watch.rerun.update_birth import with_update
from probes.finding import Evidence, Finding
from probes.subject import Subject

MOST = 300  # steps that are run again
TENTH = 0.1
LONGER = 10  # times as many steps as went wrong, of a tenth of their size: as far as they went

Change = Callable[[nn.Module], None]


def settle(finding: Finding, subject: Subject, start: Start, run: Path) -> Finding:
    """The finding, confirmed or not by its steps run again; as it was where that says nothing.

    start: what the first step started from; the subject's model may have been trained since.
    run: the run folder, whose snapshots (`--keep-every`) are taken where that is too far back.

    The steps are run once unchanged, which must fail again, and once with the proposed fix; a
    smaller learning rate must hold for more of them too. Of an update that gave birth the operator
    is named.
    """
    of_update = finding.phase == "update" and finding.op is None
    if of_update:  # which is no advice any more
        finding = replace(finding, fix=finding.fix.replace(HUNT, ""))
    grown = finding.code in (StepTooLarge.code, ExplodingRecurrence.code)
    if finding.step is None or not (of_update or grown):
        return finding
    steps = finding.step + 1
    near = start if steps - start.step <= MOST else oldest_since(run, steps - MOST)
    if near is None or near.step >= steps:
        said = f"more than {MOST} steps back, and no snapshot since (`--keep-every`): not run again"
        return _told(finding, None, said)
    start, since = near, f" from step {near.step}"
    if of_update:
        return with_update(finding, subject, start)
    again = partial(rerun, subject, 0, None, steps, start=start)
    if finding.code == StepTooLarge.code:
        words, fixed = "a tenth of the learning rate", partial(again, TENTH)
    else:
        scaled = _scaling(subject.model, finding.site)
        if scaled is None:
            return finding
        words, fixed = "recurrent matrices of norm 1", partial(again, 1.0, change=scaled)
    if again(1.0):
        return _told(finding, None, "finite: the failure does not repeat", since)
    confirmed = fixed()
    cured = "finite, and without it not" if confirmed else "not cured"
    if confirmed and finding.code == StepTooLarge.code:
        far = start.step + min(LONGER * (steps - start.step), MOST)
        confirmed = rerun(subject, 0, None, far, TENTH, start=start, all_of_them=False)
        cured = cured if confirmed else f"finite, but not for {far - start.step} steps: postponed"
    told = _told(finding, confirmed, cured, f"{since} with {words}")
    if subject.train_step is not None:  # which clips as it likes
        return told
    clipped = rerun(replace(subject, clip_norm=1.0), 0, None, steps, 1.0, start=start)
    relief = Evidence(
        "relief: the same with the gradient norm clipped to 1",
        "finite" if clipped else "not finite either",
    )
    return replace(told, evidence=(*told.evidence, relief))


def _told(finding: Finding, confirmed: bool | None, what: str, words: str = "") -> Finding:
    said = Evidence(f"the steps run again{words}", what)
    return replace(finding, confirmed=confirmed, evidence=(*finding.evidence, said))


def _scaling(model: nn.Module, site: str | None) -> Change | None:
    """Scales the recurrent matrices of the module at the site; None where it has none."""
    found = dict(model.named_modules()).get(site or "")
    if not isinstance(found, (nn.RNNBase, nn.RNNCellBase)):
        return None
    return partial(_scale, site=site or "")


@torch.no_grad()
def _scale(model: nn.Module, site: str) -> None:
    """No recurrent matrix of the module at the site makes a vector longer."""
    for name, weight in model.get_submodule(site).named_parameters():
        if "weight_hh" in name:
            weight.div_(max(1.0, float(torch.linalg.matrix_norm(weight, 2))))
