"""What more padding moves, and whether zeros under a mask do more than end a row."""

from __future__ import annotations

from collections.abc import Iterator

from probes.compare import Comparison
from probes.execution import Ran
from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.guess import is_named
from probes.masking.absent import is_one_blank, needs_no_padding
from probes.masking.hidden import Hidden
from probes.masking.longer import Longer, longer
from probes.masking.visible import Visible

BY = 3  # positions that are added


def compared(experiment: Experiment, each: Longer) -> Comparison:
    """Where the batch with more padding parts from the other, at places that all masks let see.

    Raises ExperimentError where the subject raises.
    """
    before = experiment.evaluated.ran
    ran = each.aligned(_longer(experiment, each), before)
    look = Visible(experiment, each.each, channels=True)
    return experiment.parted(f"{each.by} more under {', '.join(each.keys)}", ran, look)


def _longer(experiment: Experiment, each: Longer) -> Ran:
    try:
        return experiment.evaluate(each.batch)
    except ExperimentError:
        # outputs that end with the longest row, as packed ones do, want labels that do
        labels = [one.key for one in experiment.layout.labels if one.key in each.keys]
        if not labels:
            raise
        return experiment.evaluate(each.with_old(labels, experiment.batch))


def is_harmless(experiment: Experiment, each: Hidden) -> bool:
    """Whether zeros under the mask do no more than end a row, as a model may want.

    Such as those that a convolution would put there itself, or that add nothing to a sum: no more
    of them changes anything. Zeros are numbers of the key, or what every table has for the one id
    that stands there; of ids, rows must give the same without them as well. Where the model takes
    no more of them, only a mask that is declared, or called one, is taken to mean more than that.
    """
    tensor = experiment.tensors[each.key]
    if not tensor.is_floating_point():
        made = next(_more(experiment, each), None) if is_one_blank(experiment, each) else None
        return made is not None and _is_absent(experiment, made)
    if bool(tensor[~each.keep].any()):
        return False
    for made in _more(experiment, each):
        try:
            return not compared(experiment, made).outputs
        except ExperimentError:
            break
    return each.guessed is not None and not is_named(each.mask.key)


def _more(experiment: Experiment, each: Hidden) -> Iterator[Longer]:
    """The batches with more of what the mask hides."""
    for made in longer(experiment, BY):
        if made.each.mask.key == each.mask.key and made.each.keep.ndim == each.keep.ndim:
            yield made


def _is_absent(experiment: Experiment, made: Longer) -> bool:
    try:
        return not compared(experiment, made).outputs and needs_no_padding(experiment, made)
    except ExperimentError:
        return False
