"""Each example once healthy, equal to the bit and silent, and once sick, and named."""

from __future__ import annotations

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch

from probes.finding import Verdict

HERE = Path(__file__).parent
EXAMPLES = {
    "trainer_classifier": ("transformers", "accelerate"),
    "trainer_gpt": ("transformers", "accelerate"),
    "lightning_module": ("lightning",),
    "lightning_by_hand": ("lightning",),
    "accelerate_loop": ("accelerate",),
    "compiled": (),
}

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def load(name: str) -> Any:
    for needed in EXAMPLES[name]:
        if find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed: pip install '.[dev]'")
    if "accelerate" in EXAMPLES[name]:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)  # it is one for all of a process
    spec = spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_healthy_one_is_equal_to_the_bit_and_silent(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    example = load(name)
    bare, _ = example.train(watched=False, planted=False)
    watched, findings = example.train(watched=True, planted=False)
    assert all(
        torch.equal(one, two)
        for one, two in zip(bare.parameters(), watched.parameters(), strict=True)
    )
    assert [each for each in findings if each.verdict is not Verdict.NOTE] == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_sick_one_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example = load(name)
    lines = Path(example.__file__).read_text().splitlines()
    [planted] = [i for i, text in enumerate(lines, 1) if text.endswith("# planted")]
    model, findings = example.train(watched=True, planted=True)
    assert (findings[0].code, findings[0].source) == (example.CODE, f"{example.__file__}:{planted}")
    assert all(parameter.isfinite().all() for parameter in model.parameters())
