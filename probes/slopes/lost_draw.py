"""Numbers that are drawn by parameters which learn nothing from what is made of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from probes.slopes.cut_draws import CutDraws, Drawn
from probes.slopes.slope import Exact

WEIGHS = ("Addmm", "Mm", "Bmm", "Baddbmm", "Addbmm", "Mv", "Addmv", "Linear", "Convolution")
RECURRENT = ("Lstm", "Gru", "Rnn", "MkldnnRnn", "CudnnRnn", "Thnn")
CHOOSES = ("NllLoss", "Gather", "Index", "CtcLoss")  # by whole numbers, as labels are


@dataclass(frozen=True, slots=True)
class LostDraw:
    """A draw of which mean and scale learn nothing. source: its line."""

    source: str | None


def lost_draw(exact: Exact, learned: Sequence[Tensor]) -> LostDraw | None:
    """The first draw that the loss hangs on, and of which its mean and scale learn nothing.

    What is cut off of it goes through weights that learn, and no draw of its line has a way back;
    and what its mean and scale learn elsewhere is of themselves alone, as by a divergence from the
    standard normal. They are no such where the score of the draw is in the loss, as in a policy
    gradient, nor where they are held against data, as by a likelihood: a model of a series may be
    fed what it drew. learned: the parameters that the optimizer holds.
    """
    draws, found = CutDraws(), list[LostDraw]()

    def look(loss: Tensor) -> None:
        graph = _Graph(loss, learned)
        back = {each.source for each in draws.found if each.out.grad_fn in graph.above}
        found.extend(
            LostDraw(each.source)
            for each in draws.found
            if each.source not in back and graph.is_lost(each)
        )

    try:
        with exact.asked_of_batch():
            exact.gradient(around_loss=draws, look=look)
    except Exception:  # such as an operator without a second derivative
        return None
    return found[0] if found else None


class _Graph:
    """A loss's graph. above: each node, with the nodes that it gives its output to."""

    def __init__(self, loss: Tensor, learned: Sequence[Tensor]) -> None:
        self._loss, self._learned = loss, {id(each) for each in learned}
        self.above: dict[Any, list[Any]] = {}
        for node in _behind([loss.grad_fn]):
            self.above.setdefault(node, [])
            for below, _ in node.next_functions:
                if below is not None:
                    self.above.setdefault(below, []).append(node)

    def is_lost(self, drawn: Drawn) -> bool:
        """Whether weights learn from what fell, and its mean and scale from themselves alone."""
        is_read = drawn.is_normal and drawn.is_read
        if not is_read and not any(self._is_weighed(each) for each in drawn.fell):
            return False
        sides = [list(self._heads(side)) for side in drawn.by]
        return all(sides) and self._is_closed([each for side in sides for each in side])

    def _is_weighed(self, fell: Tensor) -> bool:
        over = set(self._over([get_gradient_edge(fell).node]))
        return any(
            node.name().startswith(WEIGHS + RECURRENT)
            and any(below not in over and self._is_learned(below) for below in _below(node))
            for node in over
        )

    def _over(self, nodes: Collection[Any]) -> Iterator[Any]:
        """The nodes that these reach, on the way to the loss."""
        todo, seen = [node for node in nodes if node in self.above], set[Any]()
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                yield node
                todo += self.above[node]

    def _is_learned(self, node: Any) -> bool:
        """Whether nothing but parameters that learn stands behind."""
        leaves = [each.variable for each in _behind([node]) if hasattr(each, "variable")]
        return bool(leaves) and all(id(leaf) in self._learned for leaf in leaves)

    def _heads(self, roots: Sequence[Tensor]) -> Iterator[GradientEdge]:
        """Where weights were last applied on the way to these, or the parameters they are."""
        todo, seen = [get_gradient_edge(root) for root in roots], set[tuple[Any, int]]()
        while todo:
            edge = todo.pop()
            if (edge.node, edge.output_nr) in seen:
                continue
            seen.add((edge.node, edge.output_nr))
            if self._is_head(edge.node):
                yield edge
            else:
                todo += [GradientEdge(each, nr) for each, nr in edge.node.next_functions if each]

    def _is_head(self, node: Any) -> bool:
        if hasattr(node, "variable"):
            return id(node.variable) in self._learned
        learned = [
            below is not None and self._is_learned(below) for below, _ in node.next_functions
        ]
        return any(learned) and not all(learned)

    def _is_closed(self, heads: Sequence[GradientEdge]) -> bool:
        """Whether the slope by these is made of them alone."""
        held = {each.node for each in heads}
        if any(node.name().startswith(CHOOSES) for node in self._over(held) if node not in held):
            return False
        grads = torch.autograd.grad(
            self._loss,
            [getattr(each.node, "variable", each) for each in heads],
            create_graph=True,
            retain_graph=True,
            allow_unused=True,
        )
        met = _behind([each.grad_fn for each in grads if each is not None], held)
        return not any(hasattr(node, "variable") and node not in held for node in met)


def _below(node: Any) -> list[Any]:
    return [below for below, _ in node.next_functions if below is not None]


def _behind(nodes: Sequence[Any], held: Collection[Any] = ()) -> Iterator[Any]:
    """Every node behind these, each once, and none behind what is held."""
    todo, seen = list(nodes), set[Any](held)
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            todo += _below(node)
