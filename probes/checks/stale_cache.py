"""STA008: something cached outlives what it was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from probes.batch import map_leaves, take
from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.states.attributes import Attribute, Leaves, same, written_at
from probes.states.blame import blamed
from probes.states.life import Life, Outputs, differs, noise_of, other_batches
from probes.subject import Batch

Act = Callable[[Life], Outputs]


@dataclass(frozen=True)
class _Past:
    """What was done before, in words, and what it was made from."""

    words: str
    made_from: str
    play: Callable[[Life], object]
    batch: Batch


@dataclass(frozen=True, slots=True)
class StaleCache:
    """A result changes with what was evaluated before, by a value that was kept and not renewed.

    After an evaluation, a training step and another evaluation, a copy of the model must give what
    a new instance with the same parameters and buffers gives: else something that was made from the
    old weights is read again. After a batch of other size or length, a batch must give what it
    gives alone: else a mask, a table or a cache is of the wrong length. The attribute is found
    by emptying one after the other; what is renewed with every batch is a carried state, and is
    none of this check's.

    Sick: `if self.table is None: self.table = self.projection(self.embedding.weight)`.
    Healthy: the same, with `self.table = None` in `train()`; or of frozen weights.
    """

    code: ClassVar[str] = "STA008"
    rule: ClassVar[str] = "stale-cache"
    family: ClassVar[Literal["check"]] = "check"
    slow: ClassVar[bool] = True

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing."""
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding for old weights, and one for other sizes."""
        reason = None
        try:
            yield from self._of_weights(experiment)
        except ExperimentError as error:
            reason = error
        for past in _sizes(experiment):
            finding = self._of_sizes(experiment, past)
            if finding is not None:
                yield finding
                break
        if reason is not None:
            raise reason

    def _of_weights(self, experiment: Experiment) -> Iterator[Finding]:
        def play(life: Life) -> None:
            life.evaluate(experiment.batch)
            life.step(experiment.batch)

        life = Life(experiment)
        life.evaluate(experiment.batch)
        before = life.contents
        life.step(experiment.batch)
        renewed = Life(experiment)
        renewed.adopt(life)
        found = life.evaluate(experiment.batch)
        alone = renewed.evaluate(experiment.batch)
        effect = differs(alone, found)
        if effect is None:
            return
        past = _Past("a training step", "the weights before it", play, experiment.batch)
        culprits = blamed(experiment, play, _evaluates(past.batch), alone)
        after = life.contents
        stale = [each for each in culprits if _is_stale(before.get(each), after.get(each))]
        if stale and stale == list(culprits):
            yield self._said(experiment, past, stale[0], effect)

    def _of_sizes(self, experiment: Experiment, past: _Past) -> Finding | None:
        act, life = _evaluates(past.batch), Life(experiment)
        try:
            alone = act(Life(experiment))
            noise = noise_of(alone, act(Life(experiment)))
            past.play(life)
        except ExperimentError:
            return None  # the model takes no such batch
        try:
            effect = differs(alone, act(life), noise)
        except ExperimentError as error:
            effect = str(error), float("inf"), 0.0
        if effect is None or noise:
            return None
        culprits = blamed(experiment, past.play, act, alone)
        fit = [each for each in culprits if _is_sized(experiment, past, each)]
        if not fit or any(_is_renewed(experiment, each) for each in culprits):
            return None
        return self._said(experiment, past, fit[0], effect)

    def _said(
        self,
        experiment: Experiment,
        past: _Past,
        culprit: Attribute,
        effect: tuple[str, float, float],
    ) -> Finding:
        name, share, limit = effect
        finite = share < float("inf")
        what = "the loss" if name == LOSS else f"`{name}`"
        told = f"{what} changes by {100 * share:.2g}%" if finite else f"an error is raised ({name})"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"`{culprit.site}` is kept from {past.made_from} and read again: after "
            f"{past.words} {told}, against a new instance.",
            fix=f"Make `{culprit.site}` anew when what it is made from changes, or do not keep it.",
            site=culprit.site,
            phase="forward",
            source=written_at(experiment.subject.model, culprit),
            evidence=(Evidence("largest change against a new instance", share, limit),),
        )


def _evaluates(batch: Batch) -> Act:
    return lambda life: life.evaluate(batch)


def _is_stale(before: Leaves | None, after: Leaves | None) -> bool:
    """Whether the step and the evaluation after it left a tensor in it as it was."""
    tensors = any(isinstance(leaf, Tensor) and leaf.numel() > 1 for _, leaf in after or ())
    return tensors and same(before, after)


def _is_sized(experiment: Experiment, past: _Past, attribute: Attribute) -> bool:
    """Whether it holds tensors of other shapes after the one batch than after the other alone."""
    one, two = Life(experiment), Life(experiment)
    past.play(one)
    two.evaluate(past.batch)
    return _shapes(one.contents.get(attribute)) != _shapes(two.contents.get(attribute))


def _shapes(leaves: Leaves | None) -> list[tuple[int, ...]]:
    return [tuple(leaf.shape) for _, leaf in leaves or () if isinstance(leaf, Tensor)]


def _is_renewed(experiment: Experiment, attribute: Attribute) -> bool:
    """Whether another batch of the same size writes it too."""
    life = Life(experiment)
    life.evaluate(experiment.batch)
    before = life.contents.get(attribute)
    for other in other_batches(experiment):
        try:
            life.evaluate(other)
        except ExperimentError:
            continue
        return not same(before, life.contents.get(attribute))
    return True


def _sizes(experiment: Experiment) -> Iterator[_Past]:
    """A batch of other size or length first, and either order of the two."""
    whole, size = experiment.batch, experiment.size
    others = []
    if size > 2:
        others.append(("of another size", take(whole, range(size - 1), experiment.layout)))
    shorter = _shorter(experiment)
    if shorter is not None:
        others.append(("of another length", shorter))
    for words, other in others:
        for first, second in ((whole, other), (other, whole)):
            yield _Past(
                f"a batch {words}",
                f"a batch {words}",
                lambda life, first=first: life.evaluate(first),  # type: ignore[misc]
                second,
            )


def _shorter(experiment: Experiment) -> Batch | None:
    """The batch without its last place, where all keys by place agree on their length."""
    places = {
        path: tensor
        for path, tensor in experiment.tensors.items()
        if tensor.ndim > 1 and _is_by_place(experiment, path, tensor)
    }
    lengths = {tensor.shape[1] for tensor in places.values()}
    if len(lengths) != 1 or min(lengths) < 3:
        return None
    length = lengths.pop()
    counts = {mask.key for mask in experiment.layout.masks if mask.means == "length"}

    def cut(path: str, leaf: Any) -> Any:
        if path in places:
            return leaf[:, :-1].contiguous()
        counted = path in counts and isinstance(leaf, Tensor)
        return leaf.clamp(max=length - 1) if counted else leaf

    return map_leaves(experiment.batch, cut)


def _is_by_place(experiment: Experiment, path: str, tensor: Tensor) -> bool:
    axes = experiment.layout.axes.get(path, ())
    return len(axes) == tensor.ndim and axes[0] == "sample" and axes[1] in ("token", "time")
