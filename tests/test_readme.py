"""The README's code runs and prints what it says; what README and CONTRIBUTING name is there."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from probes.command import app, gather

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = FENCE.findall(README.read_text(encoding="utf-8"))
FILES = {code.split("\n")[0].removeprefix("# "): code for kind, code in BLOCKS if kind == "python"}
SESSIONS = [text.removeprefix("$ ").split("\n", 1) for kind, text in BLOCKS if kind == "console"]


def plain(text: str) -> str:
    """Without what differs from run to run and from machine to machine: folders and digits."""
    text = re.sub(r"runs/\S+?(?=/|\s|$)", "runs/RUN", text)
    return re.sub(r"\d+(\.\d+)?(e-\d+)?", "N", text).strip()


def test_the_readme_has_its_uses() -> None:
    assert list(FILES) == ["nan.py", "train.py", "pooled.py", "bert.py"]
    assert len(SESSIONS) == 4


@pytest.mark.parametrize(("command", "printed"), SESSIONS, ids=list(FILES))
def test_a_session_prints_what_the_readme_shows(tmp_path: Path, command: str, printed: str) -> None:
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert plain(done.stdout) == plain(printed), done.stderr


PAGES = README.read_text(encoding="utf-8"), CONTRIBUTING
SPANS = [
    line.removeprefix("$ ").removeprefix(".venv/bin/").partition("#")[0]
    for page in PAGES
    for span in re.findall(r"^```.*?^```|`[^`\n]+`", page, re.MULTILINE | re.DOTALL)
    for line in span.strip("`").splitlines()
]
FRAGMENTS = [code for kind, code in BLOCKS if kind == "py"]
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def options_of() -> dict[str, set[str]]:
    """The options of every command."""
    group = typer.main.get_command(app(gather("whynan.commands")))
    return {
        name: {word for each in command.params for word in each.opts}
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }


def test_the_commands_and_options_that_are_named_are_there() -> None:
    known, named = options_of(), set[str]()
    for words in (span.split() for span in SPANS if span.startswith("whynan ")):
        if len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]):
            named.add(words[1])
            assert set(OPTION.findall(" ".join(words))) <= known[words[1]], words
    assert named == set(known)


def test_every_option_that_stands_alone_is_one_of_some_command() -> None:
    known = set[str]().union(*options_of().values())
    alone = {word for span in SPANS if span.startswith("--") for word in OPTION.findall(span)}
    ours = {"--data", "--max_turn", "--shuffle", "--steps", "--tiny_dataset"}  # of `-m model`
    switches = {"--naming", "--used", "--copying", "--joint"}
    assert alone
    assert alone <= known | ours | switches


def test_what_is_made_can_be_made() -> None:
    named = {word for span in SPANS for word in re.findall(r"^make ([a-z-]+)", span)}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"report", "test", "check"} <= named <= targets


@pytest.mark.parametrize("code", FRAGMENTS)
def test_a_fragment_is_python_and_imports_what_is_there(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            module = importlib.import_module(node.module)
            assert all(hasattr(module, each.name) for each in node.names)
