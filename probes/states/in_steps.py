"""What `Subject.predict` gives under the gold prefix, beside the pass through the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from probes.bus import Kind
from probes.compare import FILL, NOISES, gap, scale
from probes.execution import Event, run
from probes.experiment import Experiment, attempted, copied, with_leaf
from probes.place import came_about
from probes.reading.alive import alive
from probes.reading.causal import Causal
from probes.replay import Snapshot
from probes.scoring.answers import lines_of
from probes.states.parted import Parted, visible
from probes.subject import Batch
from probes.vary import vary

LEAST = 1e-2  # of the largest score: a coarser cache may differ by less
SHARE = 0.5  # of a place's classes must differ: a penalty of a few is none of the model's


def from_predict(experiment: Experiment, each: Causal, length: int) -> Parted | None:
    """How far scores of `predict` are from those in the loss, though the first places agree.

    None where they agree, where `predict` reads what it has written instead of what stands in the
    batch, and where it gives something else from its first place on. length: not looked at, since
    all places are held against each other.
    """
    lead = each.lead(tuple(experiment.tensors[each.key].shape))
    if experiment.subject.predict is None or each.shared != 2 or lead[1] < 3:
        return None
    given = lines_of(experiment.outputs[each.output], lead)
    scored = None if given is None else _scored(experiment, lead)
    if given is None or scored is None or given.shape != scored.shape:
        return None
    seen = _told(experiment, each, given, lead)
    whole = next((form for form in forms(scored) if agree(given[:, :1], form[:, :1], seen)), None)
    if whole is None:
        return None
    off = apart(given, whole, seen)
    if not bool(off.any()) or experiment.is_random:
        return None
    first = int(off.any(0).nonzero()[0])
    if not _reads(experiment, each, given, lead, -1):
        return None  # it reads what it wrote itself
    if first > 1 and not _reads(experiment, each, given, lead, 0):
        return None  # it looks back no further, on purpose
    largest, at = gap(whole, given, seen & off[:, :, None])
    how = f"`predict` reads the same ids as the loss, from place {first} on"
    relative, limit = largest / scale(whole, seen), LEAST * scale(whole, seen)
    return Parted(how, first, at[0], largest, relative, limit, _site(experiment, lead[1]))


def _scored(experiment: Experiment, lead: tuple[int, ...]) -> Tensor | None:
    """(sample, place, class) the last scores by place that the loss depends on."""
    seen = alive(experiment)
    own = {id(each) for each in seen.given}
    for each in sorted(seen.shown, key=lambda one: id(one) in own)[::-1]:
        lines = lines_of(each.tensor, lead)
        grad = None if lines is None else seen.of_loss([each.tensor])[0]
        if lines is not None and grad is not None and bool(grad.any()):
            return lines.detach()
    return None


def forms(scored: Tensor) -> Iterator[Tensor]:
    """Scores, and what may be given in their place."""
    yield scored
    yield scored.log_softmax(-1)
    yield scored.softmax(-1)


def _told(experiment: Experiment, each: Causal, given: Tensor, lead: tuple[int, ...]) -> Tensor:
    """Where to compare: no padding, nothing that the loss leaves out, no mask's fill value."""
    seen = visible(experiment, each, experiment.outputs[each.output])
    lines = lines_of(seen, lead)
    assert lines is not None
    return lines & given.isfinite() & (given > FILL)


def agree(one: Tensor, two: Tensor, seen: Tensor) -> bool:
    """Whether scores are the same at all places of the first, as far as they are to be seen."""
    look = seen[:, : one.shape[1]]
    return bool(look.any()) and not bool(_far(one, two, look).any())


def apart(given: Tensor, whole: Tensor, seen: Tensor) -> Tensor:
    """(sample, place) whether most of the scores there are others."""
    return _far(given, whole, seen).sum(-1) > SHARE * seen.sum(-1)


def _far(one: Tensor, two: Tensor, look: Tensor) -> Tensor:
    return look & ((one - two).abs() > LEAST * scale(two, look))


def _reads(
    experiment: Experiment, each: Causal, given: Tensor, lead: tuple[int, ...], place: int
) -> bool:
    """Whether the last place that has an output moves, in all samples, with that of the key."""
    tensor = experiment.tensors[each.key]
    where = torch.zeros(lead, dtype=torch.bool, device=tensor.device)
    where[:, place - each.ahead if place < 0 else place] = True
    wide = torch.zeros(tensor.shape[:2], dtype=torch.bool, device=tensor.device)
    wide[:, : lead[1]] = where
    other = vary(tensor, wide)
    if other is None:
        return False
    after = experiment.evaluate(with_leaf(experiment.batch, each.key, other)).outputs
    lines = lines_of(after[each.output], lead) if each.output in after else None
    if lines is None or lines.shape != given.shape:
        return False
    limit = NOISES * experiment.evaluated.noise
    return bool(((lines - given)[:, -1].abs().amax(-1) > limit).all())


def _site(experiment: Experiment, places: int) -> str:
    """The module in whose code something else comes about step by step, where it is called so."""
    subject, batch = experiment.subject, experiment.batch
    assert subject.predict is not None
    whole = list(given_by(experiment, subject.loss, batch))
    steps = list(given_by(experiment, subject.predict, batch))
    for event in whole:
        calls = sum(_is_same(each, event) for each in whole)
        pieces = [each.value for each in steps if _is_same(each, event)]
        if len(pieces) == calls * places and event.value is not None:
            one = _joined(event.value, pieces[event.call :: calls])
            if one is not None and gap(event.value, one)[0] > LEAST * scale(event.value):
                return came_about(event.kind, event.module, subject.model).site
    return "model"


def _is_same(one: Event, two: Event) -> bool:
    return (one.site, one.kind) == (two.site, two.kind)


def given_by(
    experiment: Experiment, call: Callable[[nn.Module, Batch], object], batch: Batch
) -> Iterator[Event]:
    """What the modules take of vectors, and give, in a call of the subject's, in order."""
    model = experiment.subject.model
    with torch.no_grad(), attempted("the subject's own code, which had run before,"):
        ran = run(lambda: call(model.eval(), copied(batch)), model, Snapshot.take(model))
    for event in ran.events:
        vectors = event.value is None or event.value.is_floating_point()
        if event.kind is Kind.OUTPUT or vectors:
            yield event


def _joined(whole: Tensor, pieces: Iterable[Tensor | None]) -> Tensor | None:
    """The pieces along the one axis along which they are cut; None where there is none."""
    known = [each for each in pieces if each is not None]
    for axis in range(whole.ndim):
        if all(each.ndim == whole.ndim and each.shape[axis] == 1 for each in known):
            joined = torch.cat(known, axis) if _alike(known) else None
            if joined is not None and joined.shape == whole.shape:
                return joined
    return None


def _alike(pieces: list[Tensor]) -> bool:
    return bool(pieces) and all(each.shape == pieces[0].shape for each in pieces)
