"""What of a model does not train, and was not declared to be frozen."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

FEW = 0.5  # of the modules: biases alone, or the like, are trained on purpose in more of them


@dataclass(frozen=True, slots=True)
class Frozen:
    """Parameters that do not train, those of `partly` first, and the share of all numbers that do.

    partly: a module that trains some of its own parameters and not the others, as few do.
    """

    names: tuple[str, ...]
    share: float
    partly: str | None = None


def frozen_of(model: nn.Module, declared: tuple[str, ...]) -> Frozen | None:
    """What is frozen; None of a model without parameters."""
    known = list(model.named_parameters())
    total = sum(each.numel() for _, each in known)
    if not total:
        return None
    share = sum(each.numel() for _, each in known if each.requires_grad) / total
    names = [n for n, each in known if not each.requires_grad and not n.startswith(declared)]
    trained = {_module(name) for name, each in known if each.requires_grad}
    partly = list(dict.fromkeys(_module(name) for name in names if _module(name) in trained))
    one = partly[0] if partly and len(partly) < FEW * len({_module(n) for n, _ in known}) else None
    names.sort(key=lambda name: _module(name) != one)
    return Frozen(tuple(names), share, one)


def _module(name: str) -> str:
    return name.rpartition(".")[0] or "model"
