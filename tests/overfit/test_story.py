"""The findings of checks, hunt and suites as one story."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from overfit.asked import Asked
from overfit.curves import Accuracy
from overfit.diagnose import examine
from overfit.explains import cause_of, is_placed
from overfit.refuted import unless_learned
from overfit.story import _caused, story
from overfit.suites import read_suites
from probes import Finding, Ratio, Subject, Verdict
from probes.finding import Judgement
from probes.record import Recorder
from probes.run import Run

torch.manual_seed(0)
BATCHES = [{"x": torch.randn(8, 6), "y": torch.randint(0, 3, (8,))} for _ in range(3)]
WARNED = Finding(
    "WIR018",
    "odd-wire",
    Verdict.WARN,
    "the wire is cut in `a`.",
    "Mend it.",
    site="a",
    source="b:1",
)


def right(model: nn.Module, batch: dict[str, Tensor]) -> Ratio:
    return Ratio((model(batch["x"]).argmax(-1) == batch["y"]).sum(), len(batch["y"]))


def detached(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    hidden = torch.relu(model[0](batch["x"])).detach()
    return nn.functional.cross_entropy(model[2](hidden) * 0.1, batch["y"])


def test_a_cut_gradient_is_named_by_the_suite_that_it_stops(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    sgd = lambda model: torch.optim.SGD(model.parameters(), 1e-3)  # noqa: E731
    subject = Subject(model, BATCHES, detached, sgd, metrics={"class": right})
    record = examine(subject, Asked((5,), quick=True, steps=20), tmp_path / "run")
    lead = record.judgement.findings[0]
    assert (lead.code, lead.verdict) == ("FIT012", Verdict.FAIL)
    assert "The likely cause (WIR002): " in lead.message
    assert "WIR002" in [each.code for each in record.judgement.findings]
    assert dict(record.parts)["check"].complete
    assert "WIR001" in dict(record.parts)["check"].facts["settings"]["checks"]


def test_a_suite_that_failed_names_the_warning_of_the_checks(tmp_path: Path) -> None:
    recorder = parts(tmp_path, ended="steps", losses=[1.0] * 8, checked=WARNED)
    lead, second = story(recorder.folder).findings
    assert (lead.code, lead.verdict, lead.site, lead.source) == ("FIT004", Verdict.FAIL, "a", "b:1")
    assert lead.message.endswith("The likely cause (WIR018): the wire is cut in `a`.")
    assert lead.fix == "Mend it."
    assert second == WARNED


@pytest.mark.parametrize(("site", "fix"), [("a", "Mend it."), ("b", "Look there.")])
def test_a_cause_at_the_place_of_the_verdict_says_what_to_do(site: str, fix: str) -> None:
    verdict = Finding("FIT018", "gone", Verdict.FAIL, "it is gone.", "Look there.", site=site)
    told = _caused(verdict, WARNED)
    assert (told.fix, told.site) == (fix, site)
    assert told.message.endswith("The likely cause (WIR018): the wire is cut in `a`.")


def test_a_warning_that_cannot_be_the_cause_stands_below_the_verdict(tmp_path: Path) -> None:
    easier = replace(WARNED, code="LBL004", site="<data>")
    lead, second = story(
        parts(tmp_path, ended="steps", losses=[1.0] * 8, checked=easier).folder
    ).findings
    assert (lead.code, lead.site, lead.source) == ("FIT004", "<loss>", None)
    assert "likely cause" not in lead.message
    assert second == easier


@pytest.mark.parametrize(
    ("verdict", "site", "code", "where", "can"),
    [
        ("FIT012", "body.0", "WIR002", "body", True),
        ("FIT012", "body.0", "WIR002", "head", False),
        ("FIT012", "body.0", "WIR003", "<optimizer>", True),
        ("FIT003", "<optimizer>", "WIR007", "<data>", False),
        ("FIT003", "<optimizer>", "WIR021", "<data>", True),
        ("FIT005", None, "WIR002", "head", False),
        ("FIT018", "<optimizer>", "WIR007", "<data>", False),
        ("FIT018", "<optimizer>", "WIR008", "<optimizer>", True),
        ("FIT015", "<data>", "WIR034", "hours", True),
        ("FIT004", "<loss>", "STA012", "cell", True),
    ],
)
def test_kind_and_place_say_what_a_warning_can_explain(
    verdict: str, site: str | None, code: str, where: str, can: bool
) -> None:
    found = Finding(verdict, "v", Verdict.FAIL, "it failed.", "Mend it.", site=site)
    warning = replace(WARNED, code=code, site=where)
    assert cause_of(found, [warning]) == (warning if can else None)


def test_the_cause_is_the_warning_that_says_why_and_its_place_that_of_a_blind_model() -> None:
    leak, turned = (replace(WARNED, code=code) for code in ("MSK001", "MSK006"))
    failed = Finding("FIT002", "v", Verdict.FAIL, "it failed.", "Mend it.")
    assert cause_of(failed, [leak, turned]) == turned
    assert cause_of(failed, [leak]) == leak
    blind = replace(failed, code="FIT007", site="<data>")
    assert [is_placed(each) for each in (failed, blind, replace(blind, code="FIT006"))] == [
        False,
        False,
        True,
    ]


def test_what_a_check_found_leads_the_suite_that_it_explains(tmp_path: Path) -> None:
    failed = replace(WARNED, verdict=Verdict.FAIL)
    recorder = parts(tmp_path, ended="steps", losses=[1.0] * 8, checked=failed)
    lead, second = story(recorder.folder).findings
    assert (lead, second.code, second.fix) == (failed, "FIT004", failed.fix)
    assert second.message.endswith("; it likely follows from WIR018.")


def test_of_mere_notes_the_verdict_leads(tmp_path: Path) -> None:
    note = Finding("MSK099", "odd-mask", Verdict.NOTE, "the mask is idle.", "Leave it.")
    recorder = parts(tmp_path, ended="memorised", losses=[1.0, 0.5, *[0.001] * 6], checked=note)
    assert [each.code for each in story(recorder.folder).findings] == ["FIT001", "MSK099"]


@pytest.mark.parametrize(
    ("code", "heads", "verdict"),
    [
        ("WIR015", {"kind": 5, "centre": 5}, Verdict.NOTE),
        ("WIR015", {"kind": 4, "centre": 5}, Verdict.WARN),
        ("WIR015", {"centre": 5}, Verdict.WARN),  # which need not be the term's that is drowned
        ("WIR021", {"kind": 5, "centre": 5}, Verdict.WARN),
    ],
)
def test_a_term_that_was_learned_is_not_drowned(
    tmp_path: Path, code: str, heads: dict[str, float], verdict: Verdict
) -> None:
    known = {
        name: Accuracy((0, 10), (0.0, float(hits)), (5.0, 5.0)) for name, hits in heads.items()
    }
    recorder = parts(tmp_path, ended="steps", losses=[1.0] * 8, checked=WARNED)
    (suite,) = read_suites(Run(recorder.folder))
    warned = Judgement((replace(WARNED, code=code),))
    (found,) = unless_learned(warned, [replace(suite.curves, heads=known)]).findings
    assert found.verdict is verdict
    assert unless_learned(warned, []) == warned


def parts(tmp_path: Path, *, ended: str, losses: list[float], checked: Finding) -> Recorder:
    recorder = Recorder(tmp_path / "run")
    check = recorder.part("check", settings={"part": "check"})
    check.close(Judgement((checked,)))
    plan = {"part": "suite", "size": 5, "seed": 0, "steps": len(losses), "batches": 1}
    suite = recorder.part("overfit-5-seed0", settings={**plan, "unit": "samples", "ended": ended})
    for step, loss in enumerate(losses):
        suite.values(step, "loss", "value", {"<loss>": loss})
    suite.close()
    return recorder


@pytest.mark.parametrize("quick", [True, False])
def test_quick_leaves_out_slow_checks(tmp_path: Path, quick: bool) -> None:
    model = nn.Linear(6, 3)
    adam = lambda model: torch.optim.Adam(model.parameters(), 0.05)  # noqa: E731
    subject = Subject(
        model, BATCHES, lambda m, b: nn.functional.cross_entropy(m(b["x"]), b["y"]), adam
    )
    examine(subject, Asked((5,), quick=quick, steps=2), tmp_path / "run")
    from probes.checking import chosen

    ran = dict(Run(tmp_path / "run").parts)["check"].facts["settings"]["checks"]
    assert ran == [each.code for each in chosen(quick=quick)]
