"""What to do about what the user's own code raised, and which name was meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

WRITE_IT = (
    "write `def subject(): return Subject(model, batches, loss, optimizer)` and name that function"
)
NEEDED = {
    "model": "model=Net()",
    "batches": "batches=loader",
    "loss": "loss=lambda model, batch: cross_entropy(model(batch['x']), batch['y'])",
    "optimizer": "optimizer=lambda model: torch.optim.Adam(model.parameters())",
}
"""The fields without a default, and what each may be."""

_MISSING = re.compile(r"Subject\.__init__\(\) missing .*?: (.*)")


def advice(error: BaseException) -> str:
    """What to do about it, as a sentence."""
    if "device-side assert" in str(error):
        return (
            "An index or a probability is out of range, and nothing on the device can be read any "
            "more; run it with `--device cpu`, where the operator and its line are told."
        )
    missing = _MISSING.fullmatch(str(error)) if isinstance(error, TypeError) else None
    if missing is not None:
        names = re.findall(r"'(\w+)'", missing.group(1))
        such = ", ".join(f"`{NEEDED.get(name, name)}`" for name in names)
        return f"A Subject needs {' and '.join(f'`{name}`' for name in names)}, such as {such}."
    if line_of(error):
        return "Python cannot read that line."
    return "Run that code without whynan to see the whole traceback."


def line_of(error: BaseException) -> str:
    """The line that is no Python, after a colon; nothing of any other error."""
    text = error.text if isinstance(error, SyntaxError) else None
    return f": `{text.strip()}`" if text and text.strip() else ""


def spans_of(codes: Iterable[str]) -> str:
    """The codes, each family as one span, such as `FIT001 to FIT022`."""
    families: dict[str, list[str]] = {}
    for code in sorted(codes):
        families.setdefault(code[:3], []).append(code)
    return ", ".join(
        each[0] if len(each) == 1 else f"{each[0]} to {each[-1]}" for each in families.values()
    )


def meant(word: str, known: Iterable[str]) -> str:
    """A question after what the user can have meant, such as ` Did you mean `subject`?`."""
    by_case = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), by_case, n=3, cutoff=0.6)
    *others, last = [f"`{by_case[name]}`" for name in near] or [""]
    return f" Did you mean {', '.join(others)}{' or ' if others else ''}{last}?" if last else ""
