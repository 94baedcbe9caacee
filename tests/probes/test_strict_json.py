from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from probes import strict_json


@pytest.mark.parametrize("value", [float("nan"), np.float32("nan"), np.float64("nan")])
@pytest.mark.parametrize("wrap", [lambda x: x, torch.tensor], ids=["plain", "tensor"])
def test_a_number_that_is_not_finite_is_null_and_named_whoever_made_it(
    value: Any, wrap: Any
) -> None:
    text = strict_json.dumps({"what": "norm", "value": wrap(value)})
    found = json.loads(text, parse_constant=pytest.fail)
    assert found == {"what": "norm", "value": None, "nonfinite": "nan"}


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    values = {"a": np.int64(3), "b": torch.tensor(0.5), "c": [np.float32(1.5)], "d": np.bool_(True)}
    assert json.loads(strict_json.dumps(values)) == {"a": 3, "b": 0.5, "c": [1.5], "d": True}
