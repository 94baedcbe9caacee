"""MEM001: a step ran out of memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from nan_watch.course import courses
from nan_watch.out_of_memory.exhaustion import in_words
from probes.finding import Evidence, Finding, Verdict
from probes.run import Run


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """A step ended because an allocator, on the CPU or on CUDA, gave no more memory.

    The step is run once more, with every tensor counted from the operator that made it to its
    end, up to the one that fails again: so it is known what filled the memory, by module and
    pass, and which tensors were the largest. What grew since the last step that fitted is read
    off the shapes of the batch, and off the memory that was in use before the step: where that
    grows while the batch does not, something is kept from step to step.

    Sick: attention over one batch whose sequences are 40 times as long: scores of tokens x tokens.
    Healthy: the same batches, cut to one length.
    """

    sites: int = 3

    code: ClassVar[str] = "MEM001"
    rule: ClassVar[str] = "out-of-memory"
    family: ClassVar[Literal["health"]] = "health"

    def lacks(self, run: Run) -> str | None:
        """Steps that were watched, or one that was not to be."""
        if any(_told(each) for each in _runs(run)) or any(courses(run)):
            return None
        return "the run holds no gradient norms"

    def judge(self, run: Run) -> Iterator[Finding]:
        """One finding, at the first step that ran out."""
        told = next(filter(None, map(_told, _runs(run))), None)
        if told is not None:
            yield self._finding(told)

    def _finding(self, told: Mapping[str, Any]) -> Finding:
        asked = f" when {told['asked']} were asked for" if told["asked"] else ""
        at = f" at {told['source']}" if told["source"] else ""
        what = f"`{told['op']}`{at}" if told["op"] else f"the {told['phase']} pass{at}"
        filled = [f"{_site(s, p)} {in_words(n)}" for s, p, n in told["by_site"][: self.sites]]
        held = f"; alive were {in_words(told['size'])}: {', '.join(filled)}" if filled else ""
        grown = [f"{name} went from {old} to {new}" for name, old, new in told["grew"]]
        grew = f"; {grown[0]}" if grown else ""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"step {told['step']} ran out of memory in {what}, in the {told['phase']} pass "
            f"of `{told['site']}`{asked}{held}{grew}.",
            fix="Bound what grew (cut or bucket long samples, detach what is kept from step to "
            "step), or take a smaller batch with gradient accumulation or checkpointing.",
            site=told["site"],
            op=told["op"],
            phase=told["phase"],
            step=told["step"],
            source=told["source"],
            evidence=tuple(self._evidence(told)),
        )

    def _evidence(self, told: Mapping[str, Any]) -> Iterator[Evidence]:
        yield Evidence("said", told["said"])
        if told["size"] is not None:
            yield Evidence("alive at the peak", told["size"], unit="bytes")
        for site, phase, size in told["by_site"]:
            yield Evidence(f"alive at the peak: {_site(site, phase)}", size, unit="bytes")
        for name, size in told["largest"]:
            yield Evidence(f"among the largest: {name}", size, unit="bytes")
        for name, before, now in told["grew"]:
            yield Evidence(name, now, before)
        for name, size in told["allocator"]:
            yield Evidence(f"the allocator: {name}", size, unit="bytes")
        if told["not_replayed"]:
            yield Evidence("by site", "not known", None, told["not_replayed"])


def _runs(run: Run) -> Iterator[Run]:
    yield run
    yield from (part for _, part in run.parts)


def _told(run: Run) -> Mapping[str, Any] | None:
    told: Mapping[str, Any] | None = run.facts["settings"].get("out_of_memory")
    return told


def _site(site: str, phase: str | None) -> str:
    return f"{site} ({phase})" if phase else site
