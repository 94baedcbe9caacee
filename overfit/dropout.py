"""Dropout off: a suite asks whether the model can memorise, and noise is no part of that."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


def switch_off(model: nn.Module) -> tuple[str, ...]:
    """Every rate of dropout in the model is 0; returns where one was not, as `layer.p`.

    Found are `p` of dropout modules, whoever wrote them, and any module's number whose name
    speaks of dropping, such as `nn.LSTM.dropout` or `attention_dropout`. A rate that stands in
    the user's own code (`F.dropout(x, 0.1)`) is out of reach; evaluation is without it.
    """
    changed = []
    for site, module in model.named_modules():
        for name, value in list(vars(module).items()):
            if _is_rate(module, name, value):
                setattr(module, name, 0.0)
                changed.append(f"{site}.{name}" if site else name)
    return tuple(changed)


def _is_rate(module: nn.Module, name: str, value: object) -> bool:
    if not isinstance(value, float) or not 0 < value <= 1:
        return False
    drops = isinstance(module, _DropoutNd) or "drop" in type(module).__name__.lower()
    return (drops and name in ("p", "prob", "rate")) or "drop" in name.lower()
