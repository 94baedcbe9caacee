from __future__ import annotations

from probes.command import gather
from reports.rules import PLACE, rules_page


def test_the_page_of_rules_is_what_explain_prints() -> None:
    ours = [rule for rule in gather("whynan.rules") if _is_ours(rule)]
    text = rules_page(ours)
    for rule in ours:
        assert f"### {rule.code} {rule.rule}\n" in text
    assert "**Sick:** `loss = -(p.softmax(-1).log() * onehot).sum()`\n\n**Healthy:**" in text
    assert "Limits: `loss_left = 0.05`" in text
    assert PLACE.read_text(encoding="utf-8") == text, "make it anew: `make rules`"


def _is_ours(rule: object) -> bool:
    packages = ("probes", "nan_watch", "overfit")
    return type(rule).__module__.partition(".")[0] in packages
