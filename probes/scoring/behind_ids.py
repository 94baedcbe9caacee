"""Which keys `Subject.predict` reads where it gives ids alone, which a small change leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from probes.bus import Kind
from probes.compare import Baseline
from probes.finding import ExperimentError
from probes.modules import every_module
from probes.subject import Batch

if TYPE_CHECKING:
    from probes.experiment import Experiment


def read_behind_ids(experiment: Experiment, batch: Batch) -> bool:
    """Whether a module of weights gives `predict` something else with this batch.

    That is asked only where every output is a choice or a truth; else the outputs tell. False
    where `predict` raises.
    """
    values = [value for value in experiment.outputs.values() if value.ndim]
    if experiment.subject.predict is None or not values or not all(map(_is_whole, values)):
        return False
    try:
        before = _predicted(experiment)
        sites = before.against(before.run(batch)).sites
    except ExperimentError:
        return False
    modules = every_module(experiment.subject.model)
    root = next(modules)[0]
    heavy = {
        name for name, module in modules if any(True for _ in module.parameters(recurse=False))
    }
    return any(
        one.kind is Kind.OUTPUT and one.module != root and one.module in heavy for one in sites
    )


def _is_whole(value: Tensor) -> bool:
    return not value.is_complex() and bool((value == value.round()).all())


def _predicted(experiment: Experiment) -> Baseline:
    """The batch in evaluation mode, through `predict` alone."""
    if "predicted" not in experiment.memo:
        model, repeats = experiment.subject.model, experiment.repeats
        experiment.memo["predicted"] = Baseline(
            lambda batch: _predict(experiment, batch), experiment.batch, model, repeats=repeats
        )
    found: Baseline = experiment.memo["predicted"]
    return found


def _predict(experiment: Experiment, batch: Batch) -> object:
    from probes.experiment import attempted, copied

    subject = experiment.subject
    assert subject.predict is not None
    with attempted("`Subject.predict`, on a changed batch in evaluation mode,"):
        return subject.predict(subject.model.eval(), copied(batch))
