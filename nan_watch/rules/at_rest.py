"""GRD013: no step of the optimizer has anything to write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from probes.finding import Evidence, Finding, Verdict
from probes.run import Run


@dataclass(frozen=True, slots=True)
class AtRest:
    """The watched optimizer is never stepped, or in no step has any parameter a gradient.

    Gradients came back through the model in `calls` of its calls, and the loop ended without a
    step: it is missing, or another optimizer takes it, as one that was made inside the watch's
    block. Or it was stepped `steps` times and found no gradient: `backward` is missing, or
    `zero_grad` stands between the two. torch's own optimizers pass over such parameters; one with
    a step of its own may do without gradients, and is not judged. Nor is a loop that was ended by
    an exception.

    Sick: `loss.backward(); optimizer.zero_grad(); optimizer.step()`.
    Healthy: `optimizer.zero_grad(); loss.backward(); optimizer.step()`.
    """

    calls: int = 8
    steps: int = 3

    code: ClassVar[str] = "GRD013"
    rule: ClassVar[str] = "optimizer-at-rest"
    family: ClassVar[Literal["health"]] = "health"

    def lacks(self, run: Run) -> str | None:
        """What the optimizer did, to the end of the loop."""
        return None if _told(run) else "the run does not say what the optimizer did to its end"

    def judge(self, run: Run) -> Iterator[Finding]:
        """At most one finding, of the first part of which it is true."""
        found = (self._of(each) for each in _told(run))
        yield from [finding for finding in found if finding is not None][:1]

    def _of(self, fact: Mapping[str, Any]) -> Finding | None:
        name, steps, calls, others = (fact[key] for key in ("name", "steps", "calls", "others"))
        if steps == 0 and others:
            other = max(others, key=others.__getitem__)
            return self._finding(
                fact,
                f"the watched `{name}` was never stepped; `{other}`, which is not watched, stepped "
                f"parameters of the model {others[other]} times, and nothing guarded them.",
                "Give the watch the optimizer that is stepped: make it before the watch begins.",
            )
        if steps == 0 and calls >= self.calls:
            return self._finding(
                fact,
                f"`{name}` was never stepped, though gradients came back in {calls} calls of the "
                "model: nothing is learned.",
                "Call `optimizer.step()` after `loss.backward()`; where gradients are accumulated, "
                "over fewer batches than there are.",
            )
        if steps >= self.steps and fact["needs_gradients"] and not fact["steps_with_gradients"]:
            return self._finding(
                fact,
                f"`{name}` was stepped {steps} times, and in no step had any parameter a "
                "gradient: nothing is learned.",
                "Call `loss.backward()` before `optimizer.step()`, and `zero_grad()` before "
                "`backward()` or after the step, never between the two; make the optimizer after "
                "what replaces the model's parameters.",
            )
        return None

    def _finding(self, fact: Mapping[str, Any], message: str, fix: str) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=message,
            fix=fix,
            site="<optimizer>",
            phase="update",
            evidence=(
                Evidence("steps of the watched optimizer", fact["steps"]),
                Evidence("of these with a gradient", fact["steps_with_gradients"]),
                *(
                    Evidence(f"steps of `{name}`, which is not watched", count)
                    for name, count in fact["others"].items()
                ),
            ),
        )


def _told(run: Run) -> list[Mapping[str, Any]]:
    """What the run and each of its parts say of the optimizer."""
    settings = [each.facts["settings"] for each in (run, *(part for _, part in run.parts))]
    return [s["optimizer"] for s in settings if "optimizer" in s and "ended_by" not in s]
