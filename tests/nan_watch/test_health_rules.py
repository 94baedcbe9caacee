"""Every health rule fires on its own sick trainer, and says what it cannot judge."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

from nan_watch import NanWatch, PoisonedStep
from nan_watch.course import is_bias, module_of, read_course
from nan_watch.parameters import Parameters
from nan_watch.rules import RULES
from probes.finding import Finding, Judgement, Verdict, judge
from probes.loop import Loop
from probes.raised import is_out_of_memory
from probes.record import Recorder
from probes.run import Run
from probes.subject import load_subject

CASES = Path(__file__).parents[1] / "cases"
Loss = Callable[[nn.Module, int], Tensor]


def classes(count: int, width: int = 8) -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(0)
    return torch.randn(count, width, generator=chance), torch.randint(
        0, 3, (count,), generator=chance
    )


def mlp(width: int = 32) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
    )


def on_classes(count: int) -> Loss:
    x, y = classes(count)
    return lambda model, i: F.cross_entropy(model(x), y)


def record_subject(folder: Path, address: str, steps: int = 100) -> Run:
    """The run folder of a subject's own loop."""
    subject = load_subject(address, seed=0)
    loop = Loop(subject)
    recorder = Recorder(folder, settings={"part": "hunt"})
    parameters = Parameters(loop.model, loop.optimizer)
    try:
        with NanWatch(loop.model, loop.optimizer, out=recorder) as watch:
            for batch in islice(cycle(subject.batches), steps):
                watch.step(lambda batch=batch: loop.step(batch, watch))
    except RuntimeError as error:
        if not (isinstance(error, PoisonedStep) or is_out_of_memory(error)):
            raise
    recorder.note(parameters=parameters.facts_at_end())
    recorder.close()
    return Run(folder)


def found(judgement: Judgement, code: str) -> Finding | None:
    return next((each for each in judgement.findings if each.code == code), None)


ALONE = [rule for rule in RULES if rule.code != "GRD020"]  # which needs several processes


@pytest.mark.parametrize("rule", ALONE, ids=lambda rule: rule.code)
def test_a_rule_fires_on_its_sick_case_alone_and_not_on_its_twin(rule: Any, tmp_path: Path) -> None:
    folder = CASES / rule.code
    sick = judge(RULES, record_subject(tmp_path / "sick", f"{folder / 'sick.py'}:subject"))
    planted = load_planted(folder / "sick.py")
    finding = found(sick, rule.code)
    assert finding is not None
    assert finding.verdict is (Verdict.FAIL if rule.code == "MEM001" else Verdict.WARN)
    assert {key: getattr(finding, key) for key in planted} == planted
    worse = [f.code for f in sick.findings if f.verdict.rank > Verdict.NOTE.rank]
    assert worse == [rule.code], "one bug, one finding"
    twin = judge(RULES, record_subject(tmp_path / "twin", f"{folder / 'healthy.py'}:subject"))
    assert found(twin, rule.code) is None
    assert twin.exit_status == 0


def load_planted(path: Path) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), names)
    return dict(names["PLANTED"])


def test_a_net_whose_gradients_explode_with_depth_from_the_start(
    record: Any, tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Linear(8, 16), *(nn.Linear(16, 16) for _ in range(12)))
    torch.manual_seed(0)
    for layer in model:
        nn.init.normal_(layer.weight, std=1.0)  # Kaiming's would be a quarter
    run = record(tmp_path / "run", model, SGD(model.parameters(), 1e-30), on_classes(16), steps=12)
    finding = found(judge(RULES, run), "GRD001")
    assert finding is not None
    assert "on their way back" in finding.message
    assert finding.site == "0"


@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_a_learning_rate_that_replaces_the_weights(
    rate: float, record: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, x = mlp(), classes(16)[0]
    loss: Loss = lambda model, i: F.cross_entropy(model(x), torch.randint(3, (16,)))  # noqa: E731
    run = record(tmp_path / "run", model, Adam(model.parameters(), rate), loss)
    finding = found(judge(RULES, run), "GRD006")
    assert finding is not None
    assert (finding.site, finding.verdict) == ("0.weight", Verdict.WARN)
    assert "of its norm in the first step" in finding.message
    assert finding.message.endswith("and the loss does not fall.")


@pytest.mark.parametrize(("ratio", "end", "warned"), [(0.2, 1, True), (0.2, 0.1, False)])
def test_updates_that_stay_large_are_excused_by_a_loss_that_falls(
    tmp_path: Path, ratio: float, end: float, warned: bool
) -> None:
    recorder = Recorder(tmp_path / "run")
    for step in range(20):
        recorder.values(step, "param_grad", "norm", {"a.weight": 1.0})
        recorder.values(step, "update", "ratio", {"a.weight": ratio})
        recorder.values(step, "loss", "value", {"<loss>": 1.0 + step * (end - 1) / 19})
    recorder.close()
    finding = found(judge(RULES, Run(tmp_path / "run")), "GRD006")
    assert (finding is not None) == warned


def test_weights_that_grow_from_zero_are_not_large_by_their_rate(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    for step in range(20):  # as the second matrix of a low-rank adapter
        recorder.values(step, "param_grad", "norm", {"a.weight": 1.0})
        recorder.values(step, "update", "ratio", {"a.weight": 1.5 / (step + 1) if step else 0.5})
        recorder.values(step, "loss", "value", {"<loss>": 1.0})
    recorder.close()
    assert found(judge(RULES, Run(tmp_path / "run")), "GRD006") is None


def test_a_loss_that_does_not_depend_on_the_model_fails(record: Any, tmp_path: Path) -> None:
    model = nn.Linear(8, 1)
    x = classes(16)[0]
    loss: Loss = lambda model, i: -F.log_softmax(model(x), -1).mean()  # noqa: E731
    run = record(tmp_path / "run", model, Adam(model.parameters(), 1e-2), loss, steps=20)
    judgement = judge(RULES, run)
    assert [(f.code, f.site, f.verdict) for f in judgement.findings] == [
        ("GRD003", "<loss>", Verdict.FAIL)
    ]


class Hidden(nn.Module):
    """Every token is hidden, so that the LSTM reads zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(40, 16, padding_idx=0)
        self.lstm = nn.LSTM(16, 24, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 3)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(self.emb(ids) * (ids == 0)[:, :, None])[0].mean(1))
        return out


def test_a_mask_of_zeros_is_seen_at_what_it_silences(record: Any, tmp_path: Path) -> None:
    model, ids, y = Hidden(), torch.randint(1, 40, (16, 12)), classes(16)[1]
    loss: Loss = lambda model, i: F.cross_entropy(model(ids), y)  # noqa: E731
    run = record(tmp_path / "run", model, Adam(model.parameters(), 5e-3), loss, steps=20)
    finding = found(judge(RULES, run), "GRD003")
    assert finding is not None
    assert (finding.site, finding.verdict) == ("emb.weight", Verdict.WARN)


@pytest.mark.parametrize("sick", [False, True])
def test_gradients_that_are_not_finite_are_never_called_small_nor_healthy(
    tmp_path: Path, sick: bool
) -> None:
    torch.manual_seed(0)
    model, of_all = mlp(), on_classes(16)
    recorder = Recorder(tmp_path / "run")
    optimizer = SGD(model.parameters(), 0.1)
    with NanWatch(model, optimizer, out=recorder, on_poison="allow") as watch:
        for i in range(60):
            optimizer.zero_grad()
            loss = of_all(model, i) * (math.nan if i >= 10 and sick else 1.0)
            watch.backward(loss)
            watch.clip_grad_norm_(1.0)
            optimizer.step()
    recorder.close()
    judgement = judge(RULES, Run(recorder.folder))
    assert [f.code for f in judgement.findings if f.verdict.rank > Verdict.NOTE.rank] == []
    course = read_course("", Run(recorder.folder))
    assert (course.total[10:] == math.inf).all() == sick
    assert (course.fall == -math.inf) == sick
    assert found(judgement, "GRD005") is None, "a factor that is NaN has neither bitten nor not"


def test_what_a_run_does_not_say_is_not_judged(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    for step in range(20):
        recorder.values(step, "param_grad", "norm", {"a.weight": 1.0})
    recorder.close()
    judgement = judge(RULES, Run(tmp_path / "run"))
    assert {each.code: each.why for each in judgement.not_judged} == {
        "GRD002": "the run holds no updates",
        "GRD004": "the run does not say which parameters are frozen",
        "GRD005": "20 steps were watched, but 50 are needed",
        "GRD006": "the run holds no updates",
        "GRD007": "no activation module of this kind was seen; functions are not",
        "GRD008": "no activation module of this kind was seen; functions are not",
        "GRD009": "the run does not say which parameters the optimizer holds",
        "GRD010": "the run does not say whether frozen parameters changed",
        "GRD012": "no log, root, division or exp was seen in a step handed to `watch.step`",
        "GRD013": "the run does not say what the optimizer did to its end",
        "GRD020": "one process trained alone",
    }
    assert set(judgement.passed) == {"GRD001", "GRD003", "GRD011", "MEM001"}


def test_a_run_without_gradients_is_not_judged(tmp_path: Path) -> None:
    Recorder(tmp_path / "run").close()
    judgement = judge(RULES, Run(tmp_path / "run"))
    assert len(judgement.not_judged) == len(RULES)
    assert {each.why for each in judgement.not_judged} == {
        "the run holds no gradient norms",
        "the run does not say what the optimizer did to its end",
        "one process trained alone",
    }


def test_parts_are_judged_and_the_same_is_told_once(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.close()
    for part in ("hunt", "overfit-5-seed0"):
        address = f"{CASES / 'GRD003' / 'sick.py'}:subject"
        record_subject(tmp_path / "run" / "parts" / part, address, steps=10)
    findings = [f for f in judge(RULES, Run(tmp_path / "run")).findings if f.code == "GRD003"]
    (finding,) = findings
    assert finding.message.endswith("(in `hunt`).")


@pytest.mark.parametrize("replaced", [True, False])
def test_a_part_that_is_replaced_after_the_optimizer_was_made_is_told(
    replaced: bool, tmp_path: Path
) -> None:
    """Of a loop's own watch, too, where another optimizer might hold what this one does not."""
    model = mlp()
    optimizer = SGD(model.parameters() if replaced else model[:4].parameters(), 0.1)
    if replaced:
        model[4] = nn.Linear(model[4].in_features, model[4].out_features)  # type: ignore[arg-type]
    with NanWatch(model, optimizer, out=tmp_path / "run") as watch:
        for _ in range(5):
            model.zero_grad()
            model(torch.randn(8, model[0].in_features)).square().mean().backward()  # type: ignore[arg-type]
            optimizer.step()
    (finding,) = [f for f in watch.findings if f.code == "GRD009"]
    assert (finding.site, finding.verdict) == (
        "4.weight",
        Verdict.WARN if replaced else Verdict.NOTE,
    )
    assert ("holds 2 that the model does not have" in finding.message) == replaced


def test_parameters_are_told_apart() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    optimizer = SGD(model[:4].parameters(), 0.1)
    parameters = Parameters(model, optimizer)
    assert parameters.facts() == {
        "frozen": ["0.weight", "0.bias"],
        "unheld": ["4.weight", "4.bias"],
    }
    assert parameters.facts_at_end()["changed"] == []
    with torch.no_grad():
        model[0].weight[3, 2] *= 1 + 1e-6  # a few units in the last place
    assert parameters.facts_at_end()["changed"] == ["0.weight"]
    with torch.no_grad():
        model[0].bias[0] = math.nan
    again = Parameters(model, optimizer)
    assert again.facts_at_end()["changed"] == [], "a NaN that stays is no change"


@pytest.mark.parametrize(
    ("name", "bias", "module"),
    [
        ("a.b.weight", False, "a.b"),
        ("a.bias", True, "a"),
        ("rnn.bias_hh_l0", True, "rnn"),
        ("attn.in_proj_bias", True, "attn"),
        ("bias_free.weight", False, "bias_free"),
        ("scale", False, "model"),
    ],
)
def test_names_of_parameters(name: str, bias: bool, module: str) -> None:
    assert is_bias(name) is bias
    assert module_of(name) == module
