"""What of the hidden can be seen in training mode alone: by statistics over padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from torch import Tensor, nn

from probes.compare import NOISES, Baseline, Comparison
from probes.experiment import LOSS, Experiment, attempted, copied
from probes.finding import ExperimentError
from probes.masking.hidden import Hidden
from probes.masking.longer import Longer, everywhere_longer, longer
from probes.masking.visible import Visible, changed, differ, leaks, masked
from probes.subject import Batch


def normed_leaks(experiment: Experiment) -> list[tuple[Hidden, Comparison]]:
    """The masks and keys that leak through what a training step takes its statistics over.

    Other content under the mask moves what is visible in training mode, from the same random
    state, and moves nothing once the modules that keep running statistics use them.
    """
    if "normed leaks" not in experiment.memo:
        experiment.memo["normed leaks"] = _found(experiment)
    known: list[tuple[Hidden, Comparison]] = experiment.memo["normed leaks"]
    return known


def _found(experiment: Experiment) -> list[tuple[Hidden, Comparison]]:
    told = {(one.mask.key, one.key) for one, _ in leaks(experiment)}
    masks = [one for one in masked(experiment) if (one.mask.key, one.key) not in told]
    norms = _norms(experiment)
    if not masks or not norms:
        return []
    try:
        if len(masks) > 1 and not _leaking(experiment, masks):
            return []
        found = [each for one in masks for each in _leaking(experiment, [one])]
        return [each for each in found if _is_still(experiment, each[0], norms)]
    except ExperimentError:
        return []  # with a `train_step` of its own, the loss may be out of use


def _leaking(experiment: Experiment, masks: list[Hidden]) -> list[tuple[Hidden, Comparison]]:
    """Those of the masks under which something visible moves with what they hide together."""
    batch = changed(experiment, masks)
    if batch is None:
        return []
    ran = experiment.trained.run(batch)
    looks = [(each, Visible(experiment, each)) for each in masks]
    found = [(one, experiment.trained.against(ran, look, experiment.axes)) for one, look in looks]
    return [each for each in found if each[1].outputs]


def _is_still(experiment: Experiment, each: Hidden, norms: list[nn.Module]) -> bool:
    """Whether nothing visible moves where these modules use their running statistics."""
    other = changed(experiment, [each])
    if other is None:
        return False

    def rest() -> None:
        for norm in norms:
            norm.eval()

    one, two = (experiment.trained.run(batch, before=rest) for batch in (experiment.batch, other))
    return not differ(one, two, Visible(experiment, each), NOISES * experiment.trained.noise)


def normed_longer(
    experiment: Experiment, by: int, told: Iterable[str]
) -> Iterator[tuple[Longer, Comparison]]:
    """The batches with more padding that move what is visible by statistics over padding alone.

    Only the modules that keep running statistics are in training mode, so that nothing is drawn.
    told: the masks of which it is known that more padding moves what is visible without that.
    """
    norms = _norms(experiment)
    known = {*told, *(one.mask.key for one, _ in normed_leaks(experiment) if norms)}
    if not norms or experiment.is_random:
        return
    every = everywhere_longer(experiment, by)
    with suppress(ExperimentError):  # with a `train_step` of its own, the loss may be out of use
        baseline = _with_norms(experiment, norms)
        if every is not None and not _of_longer(experiment, baseline, every).outputs:
            return
        for each in longer(experiment, by):
            if each.each.mask.key not in known:
                found = _of_longer(experiment, baseline, each)
                if found.outputs:
                    yield each, found


def _with_norms(experiment: Experiment, norms: list[nn.Module]) -> Baseline:
    """The batch in evaluation mode, but for these modules."""
    model = experiment.subject.model

    def call(batch: Batch) -> Mapping[str, Tensor]:
        model.eval()
        for norm in norms:
            norm.train()
        with attempted("`Subject.loss`, on a longer batch with its norms in training mode,"):
            return {LOSS: experiment.subject.loss(model, copied(batch))}

    return Baseline(call, experiment.batch, model, own=True, repeats=experiment.repeats)


def _of_longer(experiment: Experiment, baseline: Baseline, each: Longer) -> Comparison:
    ran = each.aligned(baseline.run(each.batch), baseline.ran)
    return baseline.against(ran, Visible(experiment, each.each), experiment.axes)


def _norms(experiment: Experiment) -> list[nn.Module]:
    """The modules in training mode whose buffers a training step moves."""
    owners = {name.rpartition(".")[0] for name in experiment.stepped.buffers}
    modules = experiment.subject.model.named_modules()
    return [module for name, module in modules if name in owners and module.training]
