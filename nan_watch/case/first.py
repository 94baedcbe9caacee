"""The first place at which a poisoned step is not finite, in the order in which things ran."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from nan_watch.case.symptom import Reading, Symptom
from nan_watch.state import Poisoned
from nan_watch.updates import is_whole
from probes.finding import Evidence, Phase

HUNT = ", or let `whynan hunt` run the steps again, which names the operator of an update"
NEWS = 3  # finite steps before, after which a first `-inf` is news and not a mask


@dataclass(frozen=True, slots=True)
class Place:
    """Where it was first seen, in words. reading: kind and site whose history belongs to it."""

    site: str
    phase: Phase | None
    step: int
    message: str
    fix: str
    where: Mapping[str, int | str] = field(default_factory=dict)
    evidence: tuple[Evidence, ...] = ()
    reading: tuple[str, str] | None = None


def first_place(symptom: Symptom) -> Place:
    """The culprit before its victims: weights, forward pass, loss, backward pass, gradients."""
    return (
        _in_weights(symptom)
        or _in_forward(symptom)
        or _in_loss(symptom)
        or _in_backward(symptom)
        or _in_buffers(symptom)
        or _in_raise(symptom)
        or _in_gradients(symptom)
    )


def _in_weights(symptom: Symptom) -> Place | None:
    if not symptom.state:
        return None
    loaded = [each for each in symptom.state if each.name in symptom.loaded]
    state = loaded or symptom.state
    lead, names = state[0], _listed(state)
    where: dict[str, int | str] = {"row": lead.rows[0]} if len(lead.rows) == 1 else {}
    evidence = tuple(
        Evidence(f"numbers of {each.name} that are not finite, of {each.of}", each.bad, 0)
        for each in state[:8]
    )
    if loaded:
        return Place(
            lead.name,
            None,
            symptom.step,
            f"{names} held numbers that are not finite before the first step: no step of this "
            "run did it.",
            "Load a checkpoint from before, or initialise these tensors again.",
            where,
            evidence,
        )
    return Place(
        lead.name,
        "update",
        symptom.step if symptom.of_update else max(0, symptom.step - 1),
        f"{names} became not finite between {_since(symptom)} and step {symptom.step}, though the "
        "gradients of every step let through were finite: an update of the optimizer, or code "
        f"that writes the tensor, did it; step {symptom.step} is the first to show it.",
        "Look at the optimizer's learning rate, eps and state, and at code that writes the tensor"
        f"{HUNT}.",
        where,
        evidence,
    )


def _since(symptom: Symptom) -> str:
    """The newest update after which all of them are known to have been finite, in words."""
    newest: list[int] = []
    for each in symptom.state:
        ratios = symptom.past.of("update", "ratio", each.name) if is_whole(each.of) else []
        finite = [step for step, value in ratios if math.isfinite(value) and step < symptom.step]
        newest += finite[-1:] or [-1]
    return f"the update of step {min(newest)}" if min(newest) >= 0 else "the start"


def _listed(tensors: Sequence[Poisoned]) -> str:
    """The first four by name and rows, and how many there are besides."""
    more = f" and {len(tensors) - 4} more" if len(tensors) > 4 else ""
    return ", ".join(str(each) for each in tensors[:4]) + more


def _in_forward(symptom: Symptom) -> Place | None:
    suspects = [reading for reading in symptom.outputs if not reading.finite]
    if not suspects or not _forward_matters(symptom, suspects):
        return None
    lead = _lead(symptom, suspects)
    place = symptom.outputs.index(lead)
    earlier = [reading.site for reading in symptom.outputs[:place] if reading.finite]
    behind = f"; the output seen before it, `{earlier[-1]}`'s, is finite" if earlier else ""
    evidence = [
        Evidence(f"largest |output| of {lead.site}", lead.abs_max, "finite", None, symptom.step)
    ]
    for other in symptom.outputs[:place]:
        if not other.finite:
            what = f"{other.holds} in the output of {other.site}, as in healthy steps or masks"
            evidence.append(Evidence(what, other.abs_max, None, None, symptom.step))
    return Place(
        lead.site,
        "forward",
        symptom.step,
        f"`{lead.site}` is the first whose output holds {lead.holds}, in the forward pass of step "
        f"{symptom.step}: born in or before it{behind}.",
        f"Look at what `{lead.site}` is given and computes: a log, root, division or exponential "
        "at its edge, or a row that is masked whole.",
        evidence=tuple(evidence[:8]),
        reading=("output", lead.site),
    )


def _forward_matters(symptom: Symptom, suspects: Sequence[Reading]) -> bool:
    """Whether the forward pass came out sick: a NaN always; an infinity where it went on.

    Masks did not go on where what the model returned is finite: then the loss code is sick.
    """
    if any(reading.kind == "NaN" for reading in suspects):
        return True
    called = any(_of_root(reading, symptom) for reading in symptom.outputs)  # a list cannot be
    if symptom.loss is not None:
        went_on = not called or any(_of_root(reading, symptom) for reading in suspects)
        news = went_on or any(not _is_usual(symptom, reading) for reading in suspects)
        return news and not math.isfinite(symptom.loss)
    return any(
        reading.kind == "inf" and (_of_root(reading, symptom) or not called) for reading in suspects
    )


def _of_root(reading: Reading, symptom: Symptom) -> bool:
    return reading.site == symptom.root or reading.site.startswith(
        (symptom.root + ".", symptom.root + "[")
    )


def _lead(symptom: Symptom, suspects: Sequence[Reading]) -> Reading:
    """The first that no healthy mask explains; failing that, the first of all."""
    return next((each for each in suspects if not _is_usual(symptom, each)), suspects[0])


def _is_usual(symptom: Symptom, reading: Reading) -> bool:
    """Whether healthy steps were like this here too, or too few have shown that they were not."""
    readings = symptom.past.of("output", "abs_max", reading.site)
    past = [value for step, value in readings if step < symptom.step]
    if any(math.isnan(value) if reading.kind == "NaN" else math.isinf(value) for value in past):
        return True
    return reading.only_minus_inf and len(past) < NEWS


def _in_loss(symptom: Symptom) -> Place | None:
    if symptom.loss is None or math.isfinite(symptom.loss):
        return None
    seen = (
        "what the model returns is finite"
        if any(not reading.finite for reading in symptom.outputs)
        else "every output of the model is finite"
        if symptom.outputs
        else f"the tier `{symptom.tier}` looks at no site of the model"
    )
    return Place(
        "<loss>",
        "forward",
        symptom.step,
        f"the loss of step {symptom.step} is {symptom.loss}, though {seen}: "
        + (
            "born in the loss code, outside the model's sites."
            if symptom.outputs
            else "the site is not known."
        ),
        "Look at the loss code: a log, root or division at its edge, or a mean over nothing."
        if symptom.outputs
        else "Watch with `tier='sites'`, which names the site.",
        reading=("output", symptom.outputs[-1].site) if symptom.outputs else None,
    )


def _in_backward(symptom: Symptom) -> Place | None:
    suspects = [reading for reading in symptom.output_grads if not reading.finite]
    if not suspects:
        return None
    lead = suspects[0]
    place = symptom.output_grads.index(lead)
    evidence = (
        Evidence(
            f"largest |output_grad| of {lead.site}", lead.abs_max, "finite", None, symptom.step
        ),
    )
    reading = ("output_grad", lead.site)
    outside = [each for each in suspects if _of_root(each, symptom)]
    if outside:
        return Place(
            "<loss>",
            "backward",
            symptom.step,
            f"the loss code gives `{outside[0].site}` a gradient that holds {outside[0].holds} in "
            f"the backward pass of step {symptom.step}: born in the backward of what is computed "
            "from the model's output, outside the model.",
            "Look at the loss code: a log, root or division whose derivative is not finite at "
            "this value, or `where` over such a branch.",
            evidence=evidence,
            reading=reading,
        )
    later = symptom.output_grads[place - 1].site if place else None
    behind = f"; the gradient seen before it, `{later}`'s, is finite" if later else ""
    return Place(
        lead.site,
        "backward",
        symptom.step,
        f"`{lead.site}` is the first whose output's gradient holds {lead.holds}, in the backward "
        f"pass of step {symptom.step}: born in the backward of what reads that output{behind}.",
        f"Look at the code that reads `{lead.site}`'s output: a log, root, division or norm whose "
        "derivative is not finite at this value, or `where` over such a branch.",
        evidence=evidence,
        reading=reading,
    )


def _in_buffers(symptom: Symptom) -> Place | None:
    if symptom.grads or not symptom.fresh:
        return None
    lead = symptom.fresh[0]
    return Place(
        lead.name,
        "forward",
        symptom.step,
        f"{_listed(symptom.fresh)} became not finite in the forward pass of step {symptom.step}, "
        "whose loss and gradients are finite: whatever reads it next is poisoned.",
        f"Look at the code that writes `{lead.name}`: a mean over nothing, a division by a count.",
        where={"row": lead.rows[0]} if len(lead.rows) == 1 else {},
        evidence=(
            Evidence(f"numbers of {lead.name} that are not finite, of {lead.of}", lead.bad, 0),
        ),
    )


def _in_raise(symptom: Symptom) -> Place | None:
    if symptom.raised is None or symptom.grads:
        return None
    return Place(
        "<loss>",
        "forward",
        symptom.step,
        f"step {symptom.step} raised {symptom.raised}",
        "Look at what the exception says.",
        evidence=(Evidence("the step raised", symptom.raised, step=symptom.step),),
    )


def _in_gradients(symptom: Symptom) -> Place:
    names = _listed(symptom.grads)
    seen = (
        "though the gradient of every output is finite: born in the backward of the operator that "
        "uses it, or in code that writes gradients"
        if symptom.output_grads
        else f"and the tier `{symptom.tier}` looks at no site of the model: the site is not known"
        if symptom.tier == "sentinel"
        else "and no output of the model had a gradient: the site is not known"
    )
    lead = symptom.grads[0]
    return Place(
        lead.name,
        "backward",
        symptom.step,
        f"{names}: the gradient is not finite in step {symptom.step}, {seen}.",
        "Watch with `tier='sites'`, which names the site."
        if symptom.tier == "sentinel"
        else f"Look at where `{lead.name}` is used, and at code between backward and the step.",
        where={"row": lead.rows[0]} if len(lead.rows) == 1 else {},
        evidence=(
            Evidence(
                f"numbers of the gradient of {lead.name} that are not finite, of {lead.of}",
                lead.bad,
                0,
                None,
                symptom.step,
            ),
        ),
    )


def history(symptom: Symptom, place: Place, steps: int) -> Iterator[Evidence]:
    """What loss and gradients were in the step, and the numbers of so many steps before."""
    yield from _now(symptom)
    streams = [("loss", "value", "<loss>", "loss")]
    if place.reading is not None:
        kind, site = place.reading
        streams.append((kind, "abs_max", site, f"largest |{kind}| of {site}"))
    for kind, stat, site, what in streams:
        past = [pair for pair in symptom.past.of(kind, stat, site) if pair[0] < symptom.step]
        for step, value in past[-steps:]:
            yield Evidence(what, value, "finite", step=step)


def _now(symptom: Symptom) -> Iterator[Evidence]:
    if symptom.loss is not None:
        yield Evidence("loss", symptom.loss, "finite", step=symptom.step)
    if symptom.grads:
        names = ", ".join(grad.name for grad in symptom.grads[:3])
        more = ", ..." if len(symptom.grads) > 3 else ""
        what = f"parameters whose gradient is not finite ({names}{more})"
        yield Evidence(what, len(symptom.grads), 0, step=symptom.step)
