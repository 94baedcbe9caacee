"""A batch as tensors and JSON, and back again."""

from __future__ import annotations

import json
import os
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from nan_watch.capsule.pack import pack, unpack

Pair = namedtuple("Pair", ["left", "right"])


def odd_batch() -> dict[Any, Any]:
    return {
        "a": {"b": torch.arange(3)},
        "a.b": torch.ones(2, requires_grad=True),
        7: [1, 2.5, float("inf"), None, True, "word"],
        "pair": Pair(torch.zeros(2, 0), (np.arange(4, dtype=np.int32), [])),
        "half": torch.ones(2, 2, dtype=torch.bfloat16).t(),
        "packed": pack_sequence([torch.ones(3), torch.zeros(2)]),
    }


def flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from flat(each)
    elif isinstance(value, (list, tuple)):
        yield type(value).__name__
        for each in value:
            yield from flat(each)
    elif isinstance(value, (Tensor, np.ndarray)):
        yield (type(value).__name__, str(value.dtype), tuple(value.shape), value.tolist())
    else:
        yield value


def test_a_batch_comes_back_as_it_was() -> None:
    packed = pack(odd_batch())
    assert packed.left_out == ()
    back = unpack(json.loads(json.dumps(packed.tree, allow_nan=False)), packed.tensors)
    assert list(flat(back)) == list(flat(odd_batch()))
    assert back["a.b"].requires_grad
    assert isinstance(back["packed"], PackedSequence)
    assert back["pair"].right[1] == []


def test_what_is_neither_tensor_nor_number_is_left_out_by_its_path() -> None:
    packed = pack({"ids": [torch.ones(1), torch.eye(2).to_sparse()], "graph": os})
    assert packed.left_out == ("ids.1: torch.Tensor", "graph: builtins.module")
    assert unpack(packed.tree, packed.tensors)["graph"] is None
