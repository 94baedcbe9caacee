"""Which warning of a check can be the cause of which verdict, by its kind and its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from probes.finding import Finding, Verdict
from probes.reading.lost import PICKS

GRADIENTS = ("WIR002", "WIR003", "WIR011", "WIR016", "WIR017", "WIR018", "WIR019", "STA003")
"""What does not learn, or learns something else."""

SIZES = ("WIR004", "WIR008", "WIR015", "WIR020", "WIR021", "WIR035", "WIR050", "WIR061", "STA004")
"""How large a step is."""

READ = (
    *("WIR007", "WIR014", "MSK001", "MSK005", "MSK006", "MSK007", "MSK010", "IDX001", "IDX004"),
    *("IDX005", "IDX008", "IDX013", "STA002", "STA005", "STA006", "STA007", "STA009", "STA011"),
    *("STA012", "WIR034", "IDX023", "IDX015", "IDX016", "IDX017", "IDX018", "IDX020", "IDX022"),
    *("STA014", "IDX024", "IDX028", "IDX029", "IDX030"),
)
"""What of its input the model reads."""

SCORED = (
    *("WIR009", "WIR010", "WIR012", "WIR013", "WIR036", "WIR042", "WIR056", "WIR059"),
    *("IDX002", "IDX003", "IDX009", "IDX010", "IDX011", "IDX012", "IDX014", "IDX019"),
    *("LBL001", "LBL002", "LBL003", "LBL006", "LBL008", "LBL009", "LBL010", "LBL011", "LBL012"),
    *("LBL013", "LBL014", "LBL015", "LBL020", "IDX026", "IDX027"),
)
"""What its output is scored against, and how."""

MODES = (
    *("WIR001", "WIR005", "WIR006", "WIR051", "WIR058"),
    *("MSK002", "STA001", "STA013", "STA015", "STA016", "STA019"),
)
"""What differs from call to call, or from mode to mode."""

CAUSES: Mapping[str, tuple[str, ...]] = {
    "FIT002": (*GRADIENTS, *SIZES, *READ, *SCORED, *MODES),
    "FIT003": (*SIZES, "WIR010", "WIR012", "WIR013"),
    "FIT004": (*GRADIENTS, *SIZES, *READ, *SCORED),
    "FIT006": SCORED,
    "FIT007": (*GRADIENTS, *READ, *SCORED, "STA001", "WIR021"),
    "FIT008": (*GRADIENTS, *READ, *SCORED, "WIR015"),
    "FIT009": (*GRADIENTS, *SIZES),
    "FIT010": (*SIZES, "WIR010", "WIR012", "WIR013"),
    "FIT011": MODES,
    "FIT012": (*GRADIENTS, "WIR007", "WIR061"),
    "FIT013": (*GRADIENTS, *SIZES, *READ, "LBL006", "LBL008"),
    "FIT014": MODES,
    "FIT015": (*SCORED, "WIR034"),
    "FIT018": ("WIR008", "WIR050"),
}
"""Verdict to the checks whose warning may be its cause.

What makes samples easier to memorise, such as a label among the inputs, is the cause of none; nor
is what shows in other data alone, such as more padding.
"""

REFINED: Mapping[str, tuple[str, ...]] = {"MSK001": ("MSK006",), "WIR010": ("IDX003",)}
"""A check to those that say why what it found is so: of the same mask, or of a huge loss."""

PLACED = ("FIT007", "FIT012", "FIT014")
"""Verdicts whose site was measured: what stands elsewhere in the model did not do it."""

ANYWHERE = ("STA001",)
"""What of the calls before is left in the model can drown its input wherever it stands."""


def is_placed(verdict: Finding) -> bool:
    """Whether the verdict names a place of its own, and not where to begin looking."""
    if verdict.code == "FIT007" and verdict.site == "<data>":  # blind, and it is not known where
        return False
    return verdict.source is not None or verdict.site not in (None, "<loss>")


def cause_of(verdict: Finding, found: Iterable[Finding]) -> Finding | None:
    """The first of what checks found that can be the cause of the verdict; None where none can.

    Where another says why that one is so, it is the cause.
    """
    able = [each for each in found if _can_be(verdict, each)]
    if not able:
        return None
    better = REFINED.get(able[0].code, ())
    return next((each for each in able if each.code in better), able[0])


def _can_be(verdict: Finding, found: Finding) -> bool:
    if found.verdict not in (Verdict.WARN, Verdict.FAIL):
        return False
    if found.code not in CAUSES.get(verdict.code, ()):
        return False
    sites = verdict.site, found.site
    placed = verdict.code in PLACED and found.code not in ANYWHERE and not _kept_off(verdict, found)
    if not placed or not all(map(_is_module, sites)):
        return True
    return _near(verdict.site or "", found.site or "")


def keeps_place(verdict: Finding, cause: Finding) -> bool:
    """Whether the verdict's own place says more than that of its cause."""
    return is_placed(verdict) and cause.site != verdict.site and not _kept_off(verdict, cause)


def _kept_off(verdict: Finding, cause: Finding) -> bool:
    """Whether nothing came to a part that is picked, and a mask kept it off, wherever that is."""
    return verdict.op in PICKS and cause.code.startswith("MSK")


def _is_module(site: str | None) -> bool:
    return site is not None and not site.startswith("<")


def _near(one: str, other: str) -> bool:
    """Whether one is the other, or holds it."""
    short, long = sorted((one, other), key=len)
    return long == short or "model" in (one, other) or long.startswith((f"{short}.", f"{short}["))
