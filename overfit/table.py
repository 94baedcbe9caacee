"""The results of a notebook as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from overfit.results import Found, Result, Said
from probes.finding import Verdict
from probes.terminal import STYLES, console


def say_results(results: Sequence[Result]) -> None:
    """A line for each experiment stands on standard output: what was said, by what, and when."""
    table = _table("experiment", "verdict", "what is said", "by", "s")
    ran = [each for each in results if each.state != "not run"]
    for each in ran:
        lead = each.said[0] if each.said else None
        table.add_row(each.entry.name, _verdict(each), *_cells(lead, _unsaid(each)))
    console().print(table)
    if len(ran) < len(results):
        print(f"not run: {len(results) - len(ran)} of {len(results)} experiments")


def say_found(found: Sequence[Found]) -> None:
    """A line for each bug that is known by now stands on standard output."""
    table = _table("bug", "took", "named by", "by", "s")
    for each in found:
        table.add_row(each.bug.name, each.bug.cost, *_cells(each.said, each.why or ""))
    console().print(table)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in columns:
        table.add_column(
            name, justify="right" if name == "s" else "left", overflow="fold", ratio=None
        )
    return table


def _cells(said: Said | None, otherwise: str) -> tuple[str, str, str]:
    if said is None:
        return otherwise, "", ""
    finding = said.finding
    place = f" in {finding.site}" if finding.site else ""
    seconds = "" if said.seconds is None else f"{said.seconds:.0f}"
    return f"{finding.code} {finding.rule}{place}", said.by, seconds


def _verdict(result: Result) -> Text:
    if result.verdict is None:
        return Text(result.state, "dim")
    verdict = Verdict(result.verdict)
    return Text(verdict.value, STYLES[verdict])


def _unsaid(result: Result) -> str:
    if result.why is not None:
        return result.why
    return "nothing"
