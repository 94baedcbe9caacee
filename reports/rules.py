"""Writes the text of `whynan explain` of every rule into `RULES.md`: `python -m reports.rules`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from probes.command import gather, limits_of, told

PLACE = Path(__file__).parent / "RULES.md"
FAMILIES = {
    "cause": "Causes of what is not finite",
    "health": "Health of gradients, updates and units",
    "check": "Checks of masks, indices, labels, state and wiring",
    "verdict": "Verdicts on overfit suites",
}
HEAD = """# Rules

What `whynan` looks for. Each rule is a file, a code, and the text below, which
`whynan explain CODE` prints; its fields are its limits. Made by `make rules`.
"""


def rules_page(rules: Iterable[Any]) -> str:
    """Every rule by family, in the order of its code; equal rules give equal text."""
    known = sorted({rule.code: rule for rule in rules}.values(), key=lambda rule: rule.code)
    families = dict.fromkeys([*FAMILIES, *(rule.family for rule in known)])
    return "\n".join([HEAD, *(line for name in families for line in _family(name, known))])


def _family(name: str, rules: Iterable[Any]) -> Iterator[str]:
    own = [rule for rule in rules if rule.family == name]
    if own:
        yield f"## {FAMILIES.get(name, name)}\n"
    for rule in own:
        yield f"### {rule.code} {rule.rule}\n"
        yield _paragraphs(told(rule)) + "\n"
        limits = ", ".join(f"`{name} = {value}`" for name, value in limits_of(rule))
        if limits:
            yield f"Limits: {limits}.\n"


def _paragraphs(text: str) -> str:
    """The text, its examples each a paragraph of their own."""
    apart = re.sub(r"(?<!\n)\n(?=(Sick|Healthy):)", "\n\n", text)
    return re.sub(r"^(Sick|Healthy):\s*", r"**\1:** ", apart, flags=re.M)


def main() -> None:
    """`RULES.md` holds every rule that is installed."""
    PLACE.write_text(rules_page(gather("whynan.rules")), encoding="utf-8")
    print(PLACE)


if __name__ == "__main__":
    main()
