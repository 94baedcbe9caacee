"""The measured costs as tables of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

from nan_watch.bench.costs import Cost, Costs
from nan_watch.bench.memory import Memory

STEPS = "time of a step / bare step (median ± 95 %)"
TRAINERS = "the same at BERT's size, compiled, in two processes, in a Trainer"


def steps_table(costs: Sequence[Costs], title: str = STEPS) -> Table:
    """A row a tool, a column a workload: the ratio of its step to the bare one."""
    made = Table(title=title, title_justify="left")
    made.add_column("")
    for each in costs:
        made.add_column(each.workload)
    for rows in zip(*(each.rows for each in costs), strict=True):
        made.add_row(rows[0].tool, *[_cell(row) for row in rows])
    made.add_section()
    made.add_row("bare step", *[_time(each.seconds) for each in costs])
    made.add_row("pairs", *[str(_pairs(each.rows)) for each in costs])
    return made


def memory_table(memory: Memory) -> Table:
    """A row a tool: its process's peak memory beside the bare one's."""
    made = Table(title="peak memory / bare peak, processes apart", title_justify="left")
    made.add_column("")
    made.add_column(memory.workload)
    for row in memory.rows:
        made.add_row(row.tool, _cell(row))
    if memory.bare_bytes is not None:
        made.add_section()
        made.add_row("bare peak", f"{memory.bare_bytes / 2**20:.0f} MiB")
    return made


def footnotes(rows: Iterable[Cost]) -> list[str]:
    """Why a row has no number; of rows with one reason, the first is named."""
    named: dict[str, str] = {}
    for row in rows:
        if row.why is not None:
            named.setdefault(row.why, row.tool)
    return [f"not measured: {tool}: {why}" for why, tool in named.items()]


def _cell(row: Cost) -> str:
    ratio = row.ratio
    return "not measured" if ratio is None else f"{ratio.median:.3f} ± {ratio.width:.3f}"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.3g} ms"


def _pairs(rows: Sequence[Cost]) -> int:
    return max((row.ratio.pairs for row in rows if row.ratio is not None), default=0)
