from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from model.checkpoint import Position, save
from nan_watch.autopsy import Autopsy, autopsy
from nan_watch.autopsy.command import autopsy as command
from nan_watch.autopsy.files import tensors_of
from nan_watch.autopsy.places import places
from probes.command import app
from probes.errors import RequestError
from probes.finding import Finding, Verdict
from probes.run import Run


def trainer() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 4), nn.Linear(4, 3))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, bad_row: int | None = None) -> None:
    optimizer.zero_grad()
    model(torch.randint(0, 10, (6,))).sum().backward()
    if bad_row is not None:
        model.get_parameter("0.weight").grad[bad_row] = math.nan
    optimizer.step()


def write(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Path:
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    return path


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """Four checkpoints, `epoch-8.pt` to `epoch-11.pt`; a NaN gradient came before `epoch-10`."""
    folder = tmp_path / "series"
    folder.mkdir()
    model, optimizer = trainer()
    for number in range(8, 12):
        step(model, optimizer, bad_row=3 if number == 10 else None)
        write(folder / f"epoch-{number}.pt", model, optimizer)
    return folder


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """Performs an autopsy into a fresh folder."""
    taken = iter(range(9))

    def perform(*paths: Path, **how: Any) -> Autopsy:
        return autopsy(paths, tmp_path / f"out{next(taken)}", **how)

    return perform


def codes(found: Autopsy) -> list[str]:
    return [finding.code for finding in found.judgement.findings]


def only(found: Autopsy) -> Finding:
    (finding,) = found.judgement.findings
    return finding


def refusal(*paths: Path, out: Path, **how: Any) -> str:
    with pytest.raises(RequestError) as caught:
        autopsy(paths, out, **how)
    assert not out.exists()
    return str(caught.value)


def test_the_first_poisoned_checkpoint_of_a_series_is_named_with_its_rows(
    series: Path, run: Any
) -> None:
    finding = only(run(series))
    assert (finding.code, finding.rule, finding.verdict) == (
        "NAN010",
        "poisoned-checkpoint",
        Verdict.FAIL,
    )
    assert finding.site == "model.0.weight"
    assert finding.where == {"row": 3}
    assert finding.message.startswith(
        "`epoch-10.pt` is the first of 4 checkpoints that is poisoned (`epoch-9.pt` before it is "
        "finite): `model.0.weight` holds 4 NaN in row 3, and 2 more of 12 tensors; the "
        "optimizer's state is poisoned too"
    )
    assert "`epoch-9.pt`" in finding.fix
    named = " ".join(each.what for each in finding.evidence)
    assert "`optimizer.state.0.exp_avg` 4 NaN in row 3" in named
    assert "`epoch-11.pt`" in named


def test_what_changed_between_two_is_told_largest_first(series: Path, run: Any) -> None:
    found = run(series / "epoch-8.pt", series / "epoch-9.pt")
    assert codes(found) == []
    assert found.judgement.passed == ("NAN010", "NAN050")
    before = torch.load(series / "epoch-8.pt", weights_only=True)["model"]
    after = torch.load(series / "epoch-9.pt", weights_only=True)["model"]
    expected = {
        f"model.{name}": float((after[name] - old).norm() / old.norm())
        for name, old in before.items()
    }
    changes = found.series[1].changes
    model = [each for each in changes if not each.of_optimizer]
    assert [each.name for each in model] == sorted(expected, key=expected.__getitem__)[::-1]
    for each in model:
        assert each.change == pytest.approx(expected[each.name], rel=1e-6)
    assert all(each.of_optimizer for each in changes[len(model) :])


def test_the_run_folder_holds_a_row_a_checkpoint(series: Path, run: Any) -> None:
    read = Run(run(series).folder)
    assert read.complete
    bad = read.matrix("weight", "not_finite")
    column = bad.sites.index("model.0.weight")
    assert bad.values[:, column].tolist() == [0, 0, 4, 4]
    change = read.matrix("weight", "change")
    assert change.seen[:, column].tolist() == [False, True, True, True]
    assert np.isfinite(read.matrix("weight", "abs_max").values[bad.seen]).all()
    names = [each["name"] for each in read.facts["settings"]["checkpoints"]]
    assert names == ["epoch-8.pt", "epoch-9.pt", "epoch-10.pt", "epoch-11.pt"]


def test_weights_poisoned_beside_a_finite_optimizer_were_not_poisoned_by_a_gradient(
    tmp_path: Path, run: Any
) -> None:
    model, optimizer = trainer()
    step(model, optimizer)
    with torch.no_grad():
        model.get_parameter("1.bias")[1] = math.inf
    finding = only(run(write(tmp_path / "one.pt", model, optimizer)))
    assert finding.message.startswith("`one.pt` is poisoned: `model.1.bias` holds 1 inf in row 1")
    assert "no gradient that was not finite went through it" in finding.message


def test_running_statistics_alone_speak_of_a_forward_pass(tmp_path: Path, run: Any) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model(torch.full((4, 2), math.nan))
    torch.save(model.state_dict(), tmp_path / "norm.pt")
    assert "a forward pass in training mode" in only(run(tmp_path / "norm.pt")).message


def test_a_mask_of_minus_infinity_is_healthy(tmp_path: Path, run: Any) -> None:
    mask = torch.full((4, 4), -math.inf).triu(1)
    observer = {"obs.min_val": torch.tensor(math.inf), "obs.max_val": torch.tensor(-math.inf)}
    save_file({"attn.mask": mask, **observer}, tmp_path / "a.safetensors")
    save_file({"attn.mask": mask, **observer}, tmp_path / "b.safetensors")
    assert codes(run(tmp_path / "a.safetensors", tmp_path / "b.safetensors")) == []


@pytest.mark.parametrize("name", ["lin.weight", "optimizer.0.exp_avg"])
def test_minus_infinity_in_what_is_trained_is_poison(tmp_path: Path, run: Any, name: str) -> None:
    save_file({name: torch.tensor([[0.0, -math.inf]])}, tmp_path / "a.safetensors")
    assert codes(run(tmp_path / "a.safetensors")) == ["NAN010"]


def test_minus_infinity_that_was_not_there_before_is_poison(tmp_path: Path, run: Any) -> None:
    save_file({"scale": torch.zeros(3)}, tmp_path / "a.safetensors")
    save_file({"scale": torch.tensor([0, -math.inf, 0])}, tmp_path / "b.safetensors")
    finding = only(run(tmp_path / "a.safetensors", tmp_path / "b.safetensors"))
    assert finding.message.startswith("`b.safetensors` is the first of 2")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_counts_and_rows_in_every_width(tmp_path: Path, run: Any, dtype: torch.dtype) -> None:
    values = torch.ones(12, 5, dtype=dtype)
    values[2, 1] = math.nan
    values[7] = math.inf
    save_file({"w": values}, tmp_path / "a.safetensors")
    (facts,) = run(tmp_path / "a.safetensors").series[0].tensors
    assert (facts.nan, facts.inf, facts.minus_inf, facts.rows) == (1, 5, 0, (2, 7))
    assert (facts.abs_max, facts.size) == (1.0, 60 * values.element_size())


def test_a_tensor_of_many_pieces_is_counted_whole(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nan_watch.autopsy.facts.PIECE", 7)
    values = torch.arange(60.0).reshape(20, 3)
    save_file({"w": values}, tmp_path / "a.safetensors")
    after = values.clone()
    after[19] = math.nan
    after[5, 0] += 3
    save_file({"w": after}, tmp_path / "b.safetensors")
    _, last = run(tmp_path / "a.safetensors", tmp_path / "b.safetensors").series
    (facts,) = last.tensors
    assert (facts.nan, facts.rows, facts.bad_before) == (3, (19,), 0)
    assert facts.change == pytest.approx(3 / float(values[:19].norm()))


def test_complex_sparse_integer_and_empty_tensors(tmp_path: Path, run: Any) -> None:
    sparse = torch.sparse_coo_tensor([[1]], [math.nan], (4,), check_invariants=False)
    odd = {
        "complex": torch.tensor([1 + 1j, complex(math.nan, 0)]),
        "sparse": sparse,
        "integer": torch.arange(3),
        "empty": torch.empty(0, 4),
        "flag": torch.tensor(True),
    }
    torch.save(odd, tmp_path / "odd.pt")
    found = run(tmp_path / "odd.pt")
    assert {each.name: each.nan for each in found.series[0].tensors} == {
        "complex": 1,
        "sparse": 1,
        "integer": 0,
        "empty": 0,
        "flag": 0,
    }


def test_half_precision_at_the_edge_of_its_range_is_a_note(tmp_path: Path, run: Any) -> None:
    near = torch.tensor([60000.0], dtype=torch.float16)
    lost = torch.full((4,), 1e-7, dtype=torch.float16)
    fine = torch.full((4,), 1e-40)  # subnormal in float32 and harmless there
    save_file({"near": near, "lost": lost, "fine": fine}, tmp_path / "a.safetensors")
    found = run(tmp_path / "a.safetensors")
    assert (only(found).code, only(found).verdict) == ("NAN050", Verdict.NOTE)
    assert [each.what.split()[0] for each in only(found).evidence] == ["`lost`", "`near`"]
    assert found.judgement.exit_status == 0


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_sharded_folder_is_one_checkpoint(tmp_path: Path, run: Any, kind: str) -> None:
    folder = tmp_path / "sharded"
    folder.mkdir()
    stem = "model" if kind == "safetensors" else "pytorch_model"
    shards = {f"{stem}-{i}-of-2.{kind}": {f"layer{i}": torch.full((2, 2), 1.0)} for i in (1, 2)}
    shards[f"{stem}-2-of-2.{kind}"]["layer2"][1] = math.nan
    for name, tensors in shards.items():
        if kind == "safetensors":
            save_file(tensors, folder / name)
        else:
            torch.save(tensors, folder / name)
    weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    index = folder / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    torch.save(argparse.Namespace(), folder / "training_args.bin")  # transformers leaves one there
    for path in (folder, index):
        finding = only(run(path))
        assert finding.message.startswith("`sharded` is poisoned: `layer2` holds 2 NaN in row 1")


def test_our_own_checkpoints_are_a_series(tmp_path: Path, run: Any) -> None:
    model, optimizer = trainer()
    schedule = LambdaLR(optimizer, lambda step: 1.0)
    for number in (9, 10, 11):
        step(model, optimizer, bad_row=5 if number == 10 else None)
        save(tmp_path / "run", Position(number), model, optimizer, schedule, {})
    finding = only(run(tmp_path / "run"))
    assert finding.message.startswith("`step-000010` is the first of 3")
    assert finding.site == "0.weight"
    assert "`optimizer.0.exp_avg_sq`" in " ".join(each.what for each in finding.evidence)


def test_a_trainers_folder_joins_weights_and_optimizer(tmp_path: Path) -> None:
    model, optimizer = trainer()
    step(model, optimizer)
    for number in (5, 10):
        folder = tmp_path / f"checkpoint-{number}"
        folder.mkdir()
        save_file(model.state_dict(), folder / "model.safetensors")
        torch.save(optimizer.state_dict(), folder / "optimizer.pt")
        torch.save(argparse.Namespace(), folder / "rng_state.pth")
    found = places([tmp_path])
    assert [place.name for place in found] == ["checkpoint-5", "checkpoint-10"]
    with tensors_of(found[0]) as loads:
        assert {"0.weight", "optimizer.state.0.exp_avg"} <= loads.keys()


def test_the_old_format_of_torch_is_read(tmp_path: Path, run: Any) -> None:
    path = tmp_path / "old.pt"
    torch.save({"w": torch.tensor([math.nan])}, path, _use_new_zipfile_serialization=False)
    assert codes(run(path)) == ["NAN010"]


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, (str(Path(os.environ["WHYNAN_BOMB"])),)


def test_a_pickle_that_wants_more_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHYNAN_BOMB", str(tmp_path / "exploded"))
    torch.save({"w": torch.ones(1), "bomb": Bomb()}, tmp_path / "bomb.pt")
    said = refusal(tmp_path / "bomb.pt", out=tmp_path / "out")
    assert "holds more than tensors and numbers" in said
    assert "add `--trust`" in said
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("what", ["namespace", "module"])
def test_a_pickle_that_wants_more_is_loaded_on_trust(tmp_path: Path, run: Any, what: str) -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight[1, 0] = math.nan
    whole = model if what == "module" else {"m": model.state_dict(), "a": argparse.Namespace(lr=1)}
    torch.save(whole, tmp_path / "more.pt")
    name = "torch.nn.modules.linear.Linear" if what == "module" else "argparse.Namespace"
    said = refusal(tmp_path / "more.pt", out=tmp_path / "out")
    assert f"`{tmp_path / 'more.pt'}` holds more than tensors and numbers (`{name}`)" in said
    finding = only(run(tmp_path / "more.pt", trust=True))
    assert finding.where == {"row": 1}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.pt", None, "was not found below"),
        ("notes.txt", b"hello", "is no checkpoint by its name"),
        ("text.pt", b"hello there", "cannot be read as a checkpoint"),
        ("empty.pt", b"", "cannot be read as a checkpoint"),
        ("text.safetensors", b"hello there", "cannot be read as a checkpoint"),
        ("model.safetensors.index.json", b"{", "is not the index of a sharded checkpoint"),
        ("model.safetensors.index.json", b"[]", "is not the index of a sharded checkpoint"),
        (
            "model.safetensors.index.json",
            b'{"weight_map": {"w": "model-1-of-1.safetensors"}}',
            "names 1 files, but 1 of them are not in its folder",
        ),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_a_sentence(
    tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    said = refusal(tmp_path / name, out=tmp_path / "out")
    assert f"`{tmp_path / name}`" in said
    assert sentence in said


@pytest.mark.parametrize("name", ["cut.pt", "cut.safetensors"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    tensors = {"w": torch.ones(300)}
    torch.save(tensors, path) if path.suffix == ".pt" else save_file(tensors, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    said = refusal(path, out=tmp_path / "out")
    assert "cannot be read as a checkpoint" in said
    assert "it was cut or changed" in said


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no checkpoint" in refusal(empty, out=tmp_path / "out")
    (empty / "__0_0.distcp").write_bytes(b"")
    assert "dcp_to_torch" in refusal(empty, out=tmp_path / "out")


def test_a_checkpoint_without_a_tensor_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "a.pt")
    assert "holds no tensor" in refusal(tmp_path / "a.pt", out=tmp_path / "out")


def test_an_existing_folder_is_not_overwritten(series: Path) -> None:
    with pytest.raises(RequestError, match="exists already"):
        autopsy([series], series)
    assert len(list(series.iterdir())) == 4


def test_the_command_tells_tensors_changes_and_the_run(
    series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        app([command])(["autopsy", str(series), "--out", str(tmp_path / "run")])
    assert ended.value.code == 1
    out = capsys.readouterr().out
    assert "epoch-9.pt: finite; 12 float32" in out
    assert "epoch-10.pt: 3 poisoned; 12 float32" in out
    assert "of its norm: model.1.bias" in out
    assert out.splitlines()[-1] == f"run: {tmp_path / 'run'}"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "epoch-10.pt" in page
    written = json.loads((tmp_path / "run" / "findings.json").read_text())
    assert written["verdict"] == "fail"
    assert written["findings"][0]["site"] == "model.0.weight"
