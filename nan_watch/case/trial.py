"""The failing step again with a proposed fix in it, and with the same fix elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nan_watch.origin.closeup import Call, Made
from nan_watch.origin.find import Under
from nan_watch.origin.kernels import kernels
from nan_watch.origin.sources import here, module_names
from probes.batch import leaves
from probes.nested import tensors_in
from probes.patch import Edit, Edited, made_finite
from probes.replay import Snapshot, replay
from probes.subject import Batch


@dataclass(frozen=True, slots=True)
class Patch:
    """A fix that can be tried.

    words: what it does. cure: with the fix where the cause is thought to be. control: with the
    same fix in all the other places, or one that changes nothing where there is no other.
    """

    words: str
    cure: Under
    control: Under


@dataclass(frozen=True, slots=True)
class Trial:
    """Runs one step of a model under patches; nothing outside is changed.

    run: the loss and its backward pass. unfused: whether its birth was named without the fused
    kernels, so that it is patched without them as well.
    """

    model: nn.Module
    run: Callable[[], Tensor]
    snapshot: Snapshot
    optimizers: Sequence[Optimizer]
    unfused: bool = False
    batch: Batch = None
    along: Under = tuple

    def is_finite(self, under: Under) -> bool:
        """Whether loss and gradients come out finite; not so where the patched step raises."""
        return self.tried(under) is True

    def tried(self, under: Under) -> bool | None:
        """Whether loss and gradients come out finite; None where the patched step raises."""
        try:
            managers = [kernels(unfused=self.unfused), *self.along(), *under()]
            again = replay(
                self.run, self.model, self.snapshot, under=managers, optimizers=self.optimizers
            )
        except Exception:
            return None
        return not again.symptoms()

    def confirms(self, patch: Patch) -> bool:
        """Whether the patch cures the step, and the same elsewhere does not."""
        return self.is_finite(patch.cure) and not self.is_finite(patch.control)

    def at(self, call: Call | Made) -> Callable[[str], bool]:
        """Whether an operator that is being called is the call's: same name, and same line.

        Where no line is known, the module is the place.
        """
        names = module_names(self.model)

        def chosen(op: str) -> bool:
            if op != call.op:
                return False
            place = here(names)
            known = call.innermost is not None
            return place.innermost == call.innermost if known else place.site == call.site

        return chosen

    def elsewhere(self, call: Call | Made) -> Callable[[str], bool]:
        """Whether an operator has the call's name, but another place."""
        at = self.at(call)

        def chosen(op: str) -> bool:  # the call's own backward is no other place
            forward = torch._C._current_autograd_node() is None
            return forward and op == call.op and not at(op)

        return chosen

    def edit(self, words: str, call: Call | Made, edit: Edit) -> Patch:
        """The call, and its like on the same line, reads what the edit makes of its arguments."""
        return Patch(
            words,
            lambda: [Edited(self.at(call), edit)],
            lambda: [Edited(self.elsewhere(call), edit)],
        )

    @contextmanager
    def batch_made_finite(self, path: str | None, *, elsewhere: bool = False) -> Iterator[None]:
        """The batch's tensors at the path, or all the others, hold zeros where not finite."""
        found: list[Tensor] = []
        for key, leaf in leaves(self.batch).items():
            if (key == path) != elsewhere:
                found += [t for t in tensors_in(getattr(leaf, "data", leaf)) if _is_float(t)]
        with made_finite(found):
            yield

    @contextmanager
    def model_made_finite(
        self, names: Collection[str], *, elsewhere: bool = False
    ) -> Iterator[None]:
        """The same of parameters and buffers by name, as the step finds them when it begins."""
        every = (*self.model.named_parameters(), *self.model.named_buffers())
        with made_finite([t for name, t in every if (name in names) != elsewhere and _is_float(t)]):
            yield


def _is_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point()
