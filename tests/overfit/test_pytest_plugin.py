from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

SUBJECT = """
import torch
from torch import nn
from probes import Ratio, Subject

def right(model, batch):
    return Ratio((model(batch["x"]).argmax(-1) == batch["y"]).sum(), len(batch["y"]))

def loss(model, batch):
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])

def subject(lr):
    torch.manual_seed(0)
    x, y = torch.randn(24, 8), torch.randint(0, 3, (24,))
    return Subject(
        nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3)),
        [{"x": x, "y": y}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=lr),
        metrics={"class": right},
    )
"""


@pytest.mark.slow  # torch is imported in a process of its own
def test_the_failure_of_a_users_test_is_the_finding(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        train=SUBJECT,
        test_theirs="""
        import torch
        from overfit import assert_healthy, assert_memorises
        from train import subject

        def test_learns():
            learning = subject(0.02)
            torch.manual_seed(7)
            before = torch.get_rng_state()
            assert_memorises(learning, sizes=(5,), steps=60)
            assert_healthy(learning, checks=["WIR008", "parameter-does-not-learn"])
            assert torch.equal(before, torch.get_rng_state())

        def test_is_idle():
            assert_healthy(subject(0.0), checks=["WIR008"])

        def test_cannot_be_judged():
            assert_healthy(subject(0.02), checks=["MSK001"])

        def test_keeps_its_report(assert_memorises):
            assert_memorises(subject(1e-9), sizes=(5,), steps=20)
        """,
    )
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-W", "error")
    done.assert_outcomes(passed=1, failed=3)
    done.stdout.fnmatch_lines(
        [
            "*assert_healthy(subject(0.0), checks=[[]*WIR008*])",
            "E * AssertionError: WIR008 *",
            "E *  - *",
            "E *  fix: *",
            "E * AssertionError: MSK001 not judged: *",
            "E * AssertionError: FIT004 flat: nothing was learned from 5 samples *",
            "E *report: */whynan-1/report.html",
        ]
    )
    assert not [line for line in done.outlines if "demand.py" in line]
    (report,) = (
        line.split("report: ")[1] for line in done.outlines if "E  " in line and "report: " in line
    )
    assert Path(report).is_file()


def test_packages_of_the_same_names_do_a_users_suite_no_harm(tmp_path: Path) -> None:
    """The plugin is loaded into it, and imports neither torch nor any package of ours."""
    for name in ("overfit", "reports", "probes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("theirs = True\n")
    (tmp_path / "test_theirs.py").write_text(
        "import sys\nimport overfit, probes, reports\n"
        "def test_theirs(pytestconfig):\n"
        "    assert pytestconfig.pluginmanager.has_plugin('whynan')\n"
        "    assert overfit.theirs and probes.theirs and reports.theirs\n"
        "    assert not {'torch', 'nan_watch', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_theirs.py"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
