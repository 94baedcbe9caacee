"""Turns what a step reads into tensors and JSON, and back; what fits neither is left out."""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from probes.errors import RequestError

DTYPES = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8}
    | {torch.int64, torch.int32, torch.int16, torch.int8}
)
Node = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Packed:
    """A value as a tree of JSON whose tensors lie beside it under their names.

    left_out: what is not there, as `path: class`.
    """

    tree: Node
    tensors: Mapping[str, Tensor]
    left_out: tuple[str, ...]


def pack(value: Any) -> Packed:
    """The value of containers, tensors, arrays, numbers and strings, as far as it is of these."""
    work = _Packing()
    return Packed(work.node(value, ""), work.tensors, tuple(work.left_out))


@dataclass(slots=True)
class _Packing:
    tensors: dict[str, Tensor] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def node(self, value: Any, path: str) -> Node:
        if value is None or isinstance(value, (bool, int, str)):
            return {"value": value}
        if isinstance(value, float):
            return {"value": value} if math.isfinite(value) else {"float": str(value)}
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            return {"array": self._put(torch.from_numpy(value.copy()), path)}
        if isinstance(value, PackedSequence):
            return {"packed": [self.node(part, f"{path}[{i}]") for i, part in enumerate(value)]}
        return self._container(value, path)

    def _container(self, value: Any, path: str) -> Node:
        if isinstance(value, Mapping) and all(isinstance(key, (str, int)) for key in value):
            items = [[key, self._under(path, key, each)] for key, each in value.items()]
            return {"encoding" if type(value).__name__ == "BatchEncoding" else "mapping": items}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            pairs = zip(value._fields, value, strict=True)
            fields = [[key, self._under(path, key, each)] for key, each in pairs]
            return {"fields": fields, "called": type(value).__name__}
        if isinstance(value, (list, tuple)):
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [self._under(path, i, each) for i, each in enumerate(value)]}
        return self._leave(value, path)

    def _under(self, path: str, key: object, value: Any) -> Node:
        return self.node(value, f"{path}.{key}" if path else str(key))

    def _tensor(self, value: Tensor, path: str) -> Node:
        if value.layout is not torch.strided or value.is_nested or value.dtype not in DTYPES:
            return self._leave(value, path)
        facts = {"requires_grad": value.requires_grad, "device": value.device.type}
        return {"tensor": self._put(value, path), **facts}

    def _put(self, tensor: Tensor, path: str) -> str:
        name = path or "batch"
        while name in self.tensors:
            name += "'"
        self.tensors[name] = plain(tensor)
        return name

    def _leave(self, value: Any, path: str) -> Node:
        kind = type(value)
        self.left_out.append(f"{path or 'batch'}: {kind.__module__}.{kind.__qualname__}")
        return {"left_out": kind.__qualname__}


def plain(tensor: Tensor) -> Tensor:
    """A copy on the CPU that shares no memory, as safetensors asks for."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def unpack(tree: Node, tensors: Mapping[str, Tensor]) -> Any:
    """The value that was packed, its tensors on the CPU; mappings come back as dicts.

    Raises RequestError where the tree is not one that `pack` made.
    """
    ((kind, content), *_) = tree.items()
    if kind not in _READERS:
        raise RequestError(f"`{kind}` is no part of a capsule's batch: it was cut or changed.")
    return _READERS[kind](content, tree, tensors)


def _tensor(name: str, tree: Node, tensors: Mapping[str, Tensor]) -> Tensor:
    return tensors[name].clone().requires_grad_(bool(tree["requires_grad"]))


def _list(content: list[Node], tree: Node, tensors: Mapping[str, Tensor]) -> list[Any]:
    return [unpack(each, tensors) for each in content]


def _fields(content: list[tuple[str, Node]], tree: Node, tensors: Mapping[str, Tensor]) -> Any:
    make: Any = namedtuple
    return make(tree["called"], [k for k, _ in content])(*(unpack(x, tensors) for _, x in content))


def _encoding(items: list[tuple[str, Node]], tree: Node, tensors: Mapping[str, Tensor]) -> Any:
    from transformers import BatchEncoding  # a tokenizer made it, so it is there

    return BatchEncoding({key: unpack(each, tensors) for key, each in items})


def _packed(content: list[Node], tree: Node, tensors: Mapping[str, Tensor]) -> PackedSequence:
    return PackedSequence(*_list(content, tree, tensors))


_READERS: dict[str, Callable[[Any, Node, Mapping[str, Tensor]], Any]] = {
    "value": lambda content, tree, tensors: content,
    "float": lambda content, tree, tensors: float(content),
    "tensor": _tensor,
    "array": lambda content, tree, tensors: tensors[content].numpy().copy(),
    "packed": _packed,
    "mapping": lambda items, tree, tensors: {key: unpack(x, tensors) for key, x in items},
    "encoding": _encoding,
    "fields": _fields,
    "tuple": lambda content, tree, tensors: tuple(_list(content, tree, tensors)),
    "list": _list,
    "left_out": lambda content, tree, tensors: None,
}
