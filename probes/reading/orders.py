"""Orders in which samples and their labels may be laid down apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

STEPS = 3  # samples that labels may lag behind, either way


@dataclass(frozen=True, slots=True)
class Order:
    """place: (sample,) where the label of each stands. words: what the two orders are; fix."""

    place: Tensor
    words: str
    fix: str


BY_NAME = (
    "Sort names of files by their numbers, or join inputs and labels by the name, before they are "
    "put side by side."
)
BY_STEP = "Take inputs and labels of the same sample: one of the two was moved on by itself."
BY_END = "Append both, or insert both in front; or turn one of them round."


def orders(count: int, batch: int, shifts: bool) -> Iterator[Order]:
    """Of so many samples, in batches of so many. shifts: whether labels may lag behind, too."""
    for start in (0, 1):
        by_name = torch.tensor(sorted(range(start, start + count), key=str), device="cpu") - start
        if bool((by_name == torch.arange(count, device="cpu")).all()):
            continue
        few = ", ".join(map(str, sorted(range(start, start + count), key=str)[:4]))
        named, numbered = f"that of names ({few}, ...)", "that of numbers"
        yield Order(by_name, f"inputs in {named}, and labels in {numbered}", BY_NAME)
        yield Order(by_name.argsort(), f"inputs in {numbered}, and labels in {named}", BY_NAME)
    yield Order(
        torch.arange(count, device="cpu").flip(0), "labels in the reverse order of inputs", BY_END
    )
    steps = {*range(1, STEPS + 1), batch} if shifts else set()
    for step in sorted(steps):
        for by, words in ((step, "after"), (-step, "before")):
            place = (torch.arange(count, device="cpu") + by) % count
            plural = "s" * (step > 1)
            yield Order(place, f"each label {step} place{plural} {words} its input", BY_STEP)
