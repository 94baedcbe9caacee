"""Whether a step writes parameters before the optimizer does: a replay must then start before."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor


class OwnWrites:
    """Compares the parameters' versions at a step's start with those ahead of its optimizer.

    A model may scale its weights in its forward pass, `nn.Embedding(max_norm=...)` cuts rows when
    it reads them, a second optimizer may step before. The guard keeps none of that out.
    `expected` says whether the next step has to be feared to do so: it is until one did not.
    """

    def __init__(self, parameters: Callable[[], Iterable[Tensor]]) -> None:
        self.expected = True
        self._parameters = parameters
        self._known: list[int] | None = None

    def begin(self) -> None:
        """A step begins."""
        self._known = [parameter._version for parameter in self._parameters()]

    def end(self) -> None:
        """The optimizer is about to write, for the first time in the step that began."""
        if self._known is not None:
            self.expected = self._known != [each._version for each in self._parameters()]
            self._known = None
