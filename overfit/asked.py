"""What is asked of a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass, replace

from overfit.plan import Plan

SIZES = (5, 20)
STEPS = 400
QUICK_HUNT = 20  # steps
SEEDS = 3  # of the smallest suite


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be done with a subject.

    sizes: samples of each suite. steps: optimizer steps of a suite at most; of the usual number
    there may be as many again where the samples are nearly memorised. hunted: whether the
    hunt and attention maps are part of it. quick: a hunt of 20 steps, and suites that evaluate
    every 20 steps instead of 10 and stop after two perfect evaluations instead of three.
    dropout: left on while a suite trains. jobs: suites at once, None for one a core. why: whether
    interventions are tried on what was not memorised. engine: what runs the suites, `local` or
    `ray`. A whole diagnosis that is not quick trains each suite blind as well, the smallest with
    three seeds, and measures what decisions rest on.
    """

    sizes: tuple[int, ...] = SIZES
    steps: int = STEPS
    seed: int = 0
    hunted: bool = True
    quick: bool = False
    dropout: bool = False
    device: str | None = None
    jobs: int | None = None
    why: bool = False
    engine: str = "local"

    @property
    def hunt_steps(self) -> int | None:
        """Steps of the hunt; None for the hunt's own default."""
        return QUICK_HUNT if self.quick else None

    @property
    def names(self) -> list[str]:
        """Of all parts of the run, but for interventions, which follow from what the others say."""
        first = ["check", "hunt"] if self.hunted else []
        return [*first, *(plan.name for plan in self.plans())]

    def plans(self) -> list[Plan]:
        """One plan a suite, the largest first, since it takes longest; then blind and by seed."""
        suites = self._suites()
        if self.quick or not self.hunted:
            return suites
        plain = [replace(each, attention=False, rests=False, again=False) for each in suites]
        seeds = (self.seed + i for i in range(1, SEEDS))
        return [
            *suites,
            *(replace(each, kind="blind") for each in plain),
            *(replace(plain[-1], seed=seed) for seed in seeds),
        ]

    def _suites(self) -> list[Plan]:
        every, in_a_row = (20, 2) if self.quick else (10, 3)
        largest = max(self.sizes)
        return [
            Plan(
                size=size,
                sizes=self.sizes,
                seed=self.seed,
                steps=self.steps,
                again=self.steps == STEPS,
                every=every,
                in_a_row=in_a_row,
                dropout=self.dropout,
                attention=self.hunted and size == largest,
                rests=self.hunted and not self.quick,
            )
            for size in sorted(self.sizes, reverse=True)
        ]
