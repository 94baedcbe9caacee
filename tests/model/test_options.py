from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from model.options import form_of, takes_fields_of, value_of


@dataclass(frozen=True)
class Settings:
    shuffle: bool = False  # a new order every epoch.
    rate: float = 0.1
    max_turn: int | None = None
    loss: Literal["sum", "key"] = "sum"
    encoder: str = "small"


def given(*argv: str) -> Any:
    seen: dict[str, Any] = {}
    app = typer.Typer()

    @app.command()
    @takes_fields_of(Settings, "changes", "Settings")
    def train(
        place: Annotated[str, typer.Option("--place")] = "here",
        changes: Mapping[str, object] = {},  # read only
    ) -> None:
        """Trains."""
        seen.update(changes, place=place)

    return CliRunner().invoke(app, [*argv]), seen


@pytest.mark.parametrize(
    ("argv", "want"),
    [
        ([], {}),
        (["--shuffle=True"], {"shuffle": True}),
        (["--shuffle", "False"], {"shuffle": False}),
        (["--rate", "1e-3"], {"rate": 1e-3}),
        (["--rate=1"], {"rate": 1.0}),
        (["--max_turn=1"], {"max_turn": 1}),
        (["--max_turn=none"], {"max_turn": None}),
        (["--loss", "key"], {"loss": "key"}),
        (["--encoder", "a/b"], {"encoder": "a/b"}),
    ],
)
def test_only_what_was_given_arrives(argv: list[str], want: dict[str, object]) -> None:
    result, seen = given(*argv)
    assert result.exit_code == 0, result.output
    assert seen == {"place": "here", **want}
    assert all(type(seen[name]) is type(value) for name, value in want.items())


def test_own_options_are_kept() -> None:
    _, seen = given("--place", "there")
    assert seen == {"place": "there"}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--shuffle=maybe"], "`maybe` is not one of true|false"),
        (["--loss=db"], "`db` is not one of sum|key"),
        (["--max_turn=one"], "`one` is not one of int|none"),
        (["--shufle=True"], "No such option: --shufle"),
    ],
)
def test_a_wrong_option_ends_with_status_2(argv: list[str], said: str) -> None:
    result, seen = given(*argv)
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())
    assert seen == {}


def test_help_names_every_field_with_its_default() -> None:
    result, _ = given("--help")
    for name in ("--shuffle", "--rate", "--max_turn", "--loss", "--encoder"):
        assert name in result.output
    assert "A new order every epoch. Default: false." in " ".join(result.output.split())
    assert "Default: 0.1." in result.output
    assert "Default: none." in result.output


def test_forms() -> None:
    assert form_of(int | None) == "int|none"
    assert value_of(Literal[1, 2], "2") == 2
    assert value_of(bool | int, "20") == 20
    assert value_of(bool | int, "True") is True
