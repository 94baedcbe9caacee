"""The gradients that the terms of a loss give each module, where nobody has named its parts."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from probes.scoring.addends import addends
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed

WHOLE = "<loss>"
MOST = 6  # terms that a loss is looked into for


def norms_of_terms(subject: Subject, batch: Batch) -> dict[str, dict[str, float]]:
    """Term of the loss to the norms of its gradient, without its weight, and `<loss>` to its own.

    Empty where it is no sum. Runs the loss in the modes as they are.
    """
    terms = [t for t in addends(subject, subject.model, batch) if t.value.requires_grad]
    if not 1 < len(terms) <= MOST or not all(each.weight for each in terms):
        return {}
    names = [each.name for each in terms]
    names = [f"{n} ({i + 1})" if names.count(n) > 1 else n for i, n in enumerate(names)]
    found = dict[str, dict[str, float]]()
    whole = sum((each.value for each in terms), torch.zeros_like(terms[0].value))
    for name, value, weight in [
        *((n, each.value, each.weight) for n, each in zip(names, terms, strict=True)),
        (WHOLE, whole, 1.0),
    ]:
        found[name] = _norms(subject.model, value / weight)
    return found


def norms_of_parts(subject: Subject, batch: Batch) -> dict[str, dict[str, float]]:
    """Part of the loss to the gradient norm that it gives each module with parameters.

    Of a loss whose parts nobody has named, the terms that it is the sum of.
    """
    found: dict[str, dict[str, float]] = {}
    terms: dict[str, Callable[[nn.Module, Batch], Tensor]] = {**subject.parts}
    if not terms:
        with undisturbed(subject.model, training=True), torch.enable_grad():
            return norms_of_terms(subject, batch)
    terms[WHOLE] = subject.loss
    for name, part in terms.items():
        subject.model.zero_grad(set_to_none=True)
        with undisturbed(subject.model, training=True), torch.enable_grad():
            value = part(subject.model, batch)
            if value.requires_grad:
                value.backward()
        found[name] = own_norms(subject.model)
    subject.model.zero_grad(set_to_none=True)
    return found


def own_norms(model: nn.Module) -> dict[str, float]:
    """The gradient norm of each module's own parameters; 0 where none came."""
    found: dict[str, float] = {}
    for name, module in model.named_modules():
        own = [each for each in module.parameters(recurse=False) if each.requires_grad]
        if own:
            total = sum(float(p.grad.double().square().sum()) for p in own if p.grad is not None)
            found[name or "model"] = math.sqrt(total)
    return found


def _norms(model: nn.Module, value: Tensor) -> dict[str, float]:
    rows = [
        (place or "model", parameter)
        for place, module in model.named_modules()
        for parameter in module.parameters(recurse=False)
        if parameter.requires_grad
    ]
    grads = torch.autograd.grad(
        value, [parameter for _, parameter in rows], retain_graph=True, allow_unused=True
    )
    found = dict.fromkeys([place for place, _ in rows], 0.0)
    for (place, _), grad in zip(rows, grads, strict=True):
        if grad is not None:
            found[place] = math.hypot(found[place], float(grad.to_dense().double().norm()))
    return found
