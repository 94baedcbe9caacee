"""The look at a suite's model and samples when its steps are done: what a verdict rests on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from overfit.affine import Affine, affine_in
from overfit.alike import Alike, alike
from overfit.bottleneck import Bottleneck
from overfit.bottom import Bottom, bottom
from overfit.ceilings import Read, ceilings
from overfit.climbed import climbed
from overfit.compared import OtherScale, other_scales
from overfit.cuts import Cut, cuts
from overfit.exchange import fullest, input_keys, levelled, prefix_keys, rolled
from overfit.facts import Facts
from overfit.fade import fade
from overfit.floors import floors
from overfit.frozen import Frozen, frozen_of
from overfit.gentler import gentler
from overfit.heads import Heads
from overfit.hidden_labels import with_hidden
from overfit.lost import where_lost
from overfit.miscounted import Miscounted, miscounted
from overfit.mode_site import ModeSite, mode_site
from overfit.narrow import narrowest
from overfit.near import Near, near_conflicts, wrong_samples
from overfit.parting import Parting, where_parted
from overfit.regularisers import unlabelled
from overfit.released import Released, released
from overfit.rests import Rests
from overfit.scored_keys import scored_keys
from overfit.slots import slots, units_of
from overfit.targets import Targets, read_targets
from overfit.terms import norms_of_parts
from overfit.trials import Trials, made_again, tried
from probes.batch import leaves
from probes.layout import Layout
from probes.reading.lost import Lost
from probes.stepping.fading import Fading
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed

DRAWS = 8  # losses of the same weights in training mode
FELL = 0.5  # of a loss's start: what it fell by, to have been learned at all
LITTLE = 0.1  # of the loss at the start
MOST_OF = 0.5  # of the error that is left
UNREAD_KEY = 1e-6  # of the loss: what exchanging a key may do that nobody reads

_PLAIN: Mapping[str, Callable[..., Any]] = {
    "bottom": Bottom,
    "lost": Lost,
    "parting": Parting,
    "mode_site": ModeSite,
    "fading": Fading,
    "released": Released,
}
"""What the record holds of these is as they are made of."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was measured of a model that did not memorise; None where it could not be.

    began_reading, reading: by how much of itself the loss moves when the inputs are exchanged
    between samples, under the weights it began with and those it ended with.
    evaluated, trained: the loss in evaluation mode, and in the modes of training.
    hits, counts: the accuracies in the modes of training.
    noise: the deviation of that loss from call to call at fixed weights. moved: how far all
    trained weights went, of their size; size: their size now, of what it was. lost: where the
    input is lost. cuts: where the way back is cut. parts: part of the loss to the gradient norm
    that it gives each module. mode_site: the module whose mode alone moves the loss most, where
    the modes disagree, and the line. narrow, width: the layer with the fewest outputs that is not
    the last, and how many it has. rests: what its decisions rest on, where that was asked for.
    wrong: the samples that stay wrong. near: pairs of samples with other labels whose inputs are
    nearly the same. parting: where what is evaluated parts from what the loss runs. miscounted:
    what counts as wrong what the loss has right. frozen: what does not train. climbed: the steps
    with the loss turned round after which all is right, where it fell and nothing is. affine: the
    layers of a model that is affine in its input, where that leaves it too little room.
    regularisers: the parts of the loss that read no label, or of its terms where nobody named its
    parts, and where there are such; terms: these, at the start and now. bottom: the least that the
    loss can be by its form, where nothing is counted. fading: where the input faded before a step
    was taken. released: what its terms came to without those. scales: the accuracies that compare
    one scale with another. trials: what was tried with the model as it is at the end.
    """

    began_reading: float | None = None
    reading: float | None = None
    evaluated: float | None = None
    trained: float | None = None
    hits: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)
    noise: float | None = None
    moved: float | None = None
    lost: Lost | None = None
    cuts: tuple[Cut, ...] = ()
    parts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    size: float | None = None
    mode_site: ModeSite | None = None
    narrow: str | None = None
    width: int | None = None
    rests: Rests | None = None
    wrong: tuple[int, ...] = ()
    near: tuple[Near, ...] = ()
    parting: Parting | None = None
    miscounted: tuple[Miscounted, ...] = ()
    frozen: Frozen | None = None
    climbed: int | None = None
    affine: Affine | None = None
    regularisers: tuple[str, ...] = ()
    terms: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    bottom: Bottom | None = None
    fading: Fading | None = None
    released: Released | None = None
    scales: tuple[OtherScale, ...] = ()
    trials: Trials = field(default_factory=Trials)

    @property
    def bound(self) -> Affine | None:
        """An affine model, unless it is a narrow layer that leaves it no more numbers."""
        if self.affine is None or self.affine.rank >= (self.affine.read or math.inf):
            return self.affine
        return None if self.width is not None and self.width < self.affine.rank else self.affine

    @property
    def held_up(self) -> Bottleneck | None:
        """The layer whose few numbers make most of the squared error that is left."""
        narrow = self.trials.bottleneck
        return narrow if narrow is not None and narrow.share >= MOST_OF else None

    def as_json(self) -> dict[str, Any]:
        """As a suite's settings hold it."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Look:
        """The look that `as_json` wrote."""
        known = {name: row[name] for name in cls.__dataclass_fields__ if row.get(name) is not None}
        known |= made_again(known, _PLAIN)
        if "trials" in known:
            known["trials"] = Trials.from_json(known["trials"])
        if "rests" in known:
            known["rests"] = Rests.from_json(known["rests"])
        if "affine" in known:
            row_of = row["affine"]
            known["affine"] = Affine(**{**row_of, "layers": tuple(row_of["layers"])})
        if "frozen" in known:
            known["frozen"] = Frozen(**{**row["frozen"], "names": tuple(row["frozen"]["names"])})
        known["cuts"] = tuple(
            Cut(**{**each, "parameters": tuple(each["parameters"])}) for each in row.get("cuts", ())
        )
        for name in ("wrong", "regularisers"):
            known[name] = tuple(row.get(name, ()))
        known["miscounted"] = tuple(Miscounted(**each) for each in row.get("miscounted", ()))
        known["scales"] = tuple(OtherScale(**each) for each in row.get("scales", ()))
        known["near"] = tuple(Near(**each) for each in row.get("near", ()))
        return cls(**known)


class Looker:
    """Looks at a subject whose model is trained; leaves it, and all random states, as they are."""

    def __init__(
        self,
        subject: Subject,
        batches: Sequence[Batch],
        began: Mapping[str, Tensor],
        steps: int = 0,
    ) -> None:
        self.subject = subject
        self.model = subject.model
        self.batches = batches
        self.began = began
        self.steps = steps
        self.layout = subject.layout or Layout()
        self.targets: Targets = read_targets(subject, batches)
        self.fullest = fullest(batches, self.layout)
        self.keys = input_keys(self.fullest, self.targets.found, self.layout)
        self.scored: frozenset[str] = frozenset()
        if not self.targets.found or (
            not self.keys and None in {t.key for t in self.targets.found}
        ):
            known = input_keys(self.fullest, (), self.layout)
            found = tried(lambda: scored_keys(subject, self.fullest, known))
            self.scored = found or frozenset()
            if self.scored:
                self.keys = tuple(key for key in known if key not in self.scored)

    def facts(self) -> Facts:
        """Floors and ceilings of the samples."""
        if self.targets.why is not None:
            return Facts(unjudged=(f"floors are not judged: {self.targets.why}",))
        found = with_hidden(self.subject, self.batches, self.targets.found)
        look = Heads(self.subject, self.batches).evaluate()
        units = units_of(found, self.batches, self.layout)
        known, unknown = slots(found, units, look.hits, look.counts)
        prefixes = self.prefixes
        prefixed = bool(prefixes) or any(each.shift for each in found)
        same = tried(lambda: alike(self.subject, self.batches, self.keys)) or Alike()
        followed = self._keys_read()
        unread = [k for k in self.keys if k not in followed and leaves(self.fullest)[k].ndim > 1]
        read = Read(self.batches, followed, prefixed, prefixes, same, unread, self.layout)
        highest = {
            name: look.hits[name] / look.counts[name]
            for name in unknown + tuple(slot.head for slot in known)
            if look.counts[name]
        }
        best = ceilings(found, known, {name: look.counts[name] for name in unknown}, read)
        return Facts(
            floors(found, known, units),
            tuple(c for c in best if c.accuracy is None or highest[c.head] <= c.accuracy + 1e-6),
            tuple(
                f"floors of `{name}` are not judged: it counts {look.counts[name]:.10g}, and the "
                f"labels are {', '.join(f'{each.count} of `{each.name}`' for each in found)}"
                for name in unknown
            ),
        )

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The keys that hold labels before the one that is asked for."""
        found = [prefix_keys(self.batches[0], each, self.layout) for each in self.targets.found]
        return tuple(dict.fromkeys(key for keys in found for key in keys))

    def look(self) -> Look:
        """Everything that explains why the samples were not memorised."""
        found = self.targets.found
        trained = tried(lambda: Heads(self.subject, self.batches).evaluate(training=True))
        draws = tried(self._draws) or []
        drawn = statistics.fmean(draws) if draws else None
        evaluated = tried(lambda: self._loss(self.batches))
        reading = tried(lambda: self._reading(before=evaluated))
        began = tried(self._began) or (None, None)
        fading = tried(lambda: fade(self.subject, self.fullest, self.began, began[1]))
        counted = bool(trained and trained.counts) or any(each.loss for each in found)
        lost = None
        if reading is not None and reading <= UNREAD_KEY * 100:
            lost = tried(lambda: where_lost(self.subject, self.batches, self.keys))
        return Look(
            began_reading=began[1],
            reading=reading,
            evaluated=evaluated,
            trained=drawn,
            hits=trained.hits if trained else {},
            counts=trained.counts if trained else {},
            noise=statistics.stdev(draws) if len(draws) > 1 else None,
            moved=self._moved(),
            size=self._size(),
            lost=lost,
            cuts=tried(lambda: cuts(self.subject, self.batches[0])) or (),
            parts=tried(lambda: norms_of_parts(self.subject, self.batches[0])) or {},
            mode_site=self._mode_site(evaluated, drawn),
            wrong=wrong_samples(found),
            near=tried(lambda: near_conflicts(self.batches, self.keys, found)) or (),
            parting=tried(lambda: self._parting(began[0], drawn)),
            miscounted=tried(lambda: miscounted(self.subject, self.batches, found)) or (),
            **narrowest(self.model),
            frozen=frozen_of(self.model, self.layout.frozen),
            climbed=tried(lambda: self._climbed(began[0], drawn)),
            affine=tried(self._affine),
            bottom=None if counted else tried(lambda: bottom(self.subject, self.batches)),
            fading=fading,
            scales=tried(lambda: other_scales(self.subject, self.batches, self.began)) or (),
            released=tried(lambda: released(self.subject, self.batches, self.began)),
            trials=self._trials(fading is not None, draws, (began[1], reading)),
            **(tried(lambda: unlabelled(self.subject, self.batches, self.began)) or {}),
        )

    def _trials(
        self, fades: bool, draws: Sequence[float], read: tuple[float | None, float | None]
    ) -> Trials:
        labelled = any(each.key is not None for each in self.targets.found)
        noisy = self.steps if len(set(draws)) > 1 else 0
        of = self.subject, self.batches, self.began
        smaller = tried(lambda: gentler(*of, self.steps, read, self._reading)) or ()
        return replace(Trials.of(*of, fades, self.keys, noisy, labelled), gentler=smaller)

    def _affine(self) -> Affine | None:
        return affine_in(self.subject, self.batches, self.keys, self.layout)

    def _loss(self, batches: Sequence[Batch], training: bool = False) -> float:
        total = 0.0
        with undisturbed(self.model, training), torch.no_grad():
            for batch in batches:
                total += float(self.subject.loss(self.model, batch)) / len(batches)
        return total

    def _draws(self) -> list[float]:
        """The loss in the modes of training, again and again, from one random state to the next.

        Twice, where it is the same to the bit: then nothing is drawn.
        """
        found: list[float] = []
        with undisturbed(self.model, training=True), torch.no_grad():
            while len(found) < (DRAWS if len(set(found)) != 1 else 2):
                losses = [float(self.subject.loss(self.model, batch)) for batch in self.batches]
                found.append(statistics.fmean(losses))
        return found

    def _mode_site(self, evaluated: float | None, trained: float | None) -> ModeSite | None:
        if evaluated is None or trained is None:
            return None
        return tried(lambda: mode_site(self.subject, self.batches, evaluated, trained))

    def _reading(
        self, keys: Sequence[str] | None = None, before: float | None = None
    ) -> float | None:
        """By how much of itself the loss moves with inputs exchanged; None where they cannot be.

        Where there is nothing that they are scored against, every sample has those of the first.

        Of the batches that hold several samples. before: the loss of all batches with the inputs
        as they are, where it is known.
        """
        change = rolled if self.targets.found or self.scored else levelled
        other = [(each, change(each, keys or self.keys, self.layout)) for each in self.batches]
        moved = [each for _, each in other if each is not None]
        if not moved:
            return None
        if before is None or len(moved) < len(other):
            before = self._loss([each for each, new in other if new is not None])
        after = self._loss(moved)
        return abs(after - before) / max(abs(before), 1e-12)

    def _began(self) -> tuple[float, float | None]:
        """The loss under the weights it began with, and what exchanging the inputs does to it."""
        ended = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(dict(self.began))
        try:
            before = self._loss(self.batches)
            return before, tried(lambda: self._reading(before=before))
        finally:
            self.model.load_state_dict(ended)

    def _parting(self, began: float | None, now: float | None) -> Parting | None:
        """Where evaluation parts from a loss of which little is left; None of any other."""
        if began is None or now is None or now > LITTLE * began:
            return None
        return where_parted(self.subject, self.batches[0])

    def _climbed(self, began: float | None, now: float | None) -> int | None:
        """What `climbed` finds of a loss that fell by half its start while nothing is right."""
        if began is None or now is None or now > began - FELL * abs(began):
            return None
        look = Heads(self.subject, self.batches).evaluate()
        if not look.counts or any(look.hits.values()):
            return None
        return climbed(self.subject, self.batches, self.began)

    def _keys_read(self) -> tuple[str, ...]:
        """The input keys that the loss follows; all of them where it follows none."""
        read, before = [], tried(lambda: self._loss(self.batches))
        for key in self.keys:
            try:
                moved = self._reading([key], before)
            except Exception:  # what does not fit the other keys is read
                moved = math.inf
            if moved is None or moved > UNREAD_KEY:
                read.append(key)
        return tuple(read) or self.keys

    def _moved(self) -> float | None:
        far = size = 0.0
        for name, parameter in self.model.named_parameters():
            before = self.began.get(name)
            if before is None or not parameter.requires_grad or before.shape != parameter.shape:
                continue
            far += float((parameter.detach() - before).double().square().sum())
            size += float(before.double().square().sum())
        return math.sqrt(far / size) if size > 0 and math.isfinite(far) else None

    def _size(self) -> float | None:
        """The norm of all trained weights over what it was."""
        now = before = 0.0
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and name in self.began:
                now += float(parameter.detach().double().square().sum())
                before += float(self.began[name].double().square().sum())
        return math.sqrt(now / before) if before > 0 and math.isfinite(now) else None


def kept_start(model: nn.Module) -> dict[str, Tensor]:
    """The weights and buffers as they are now."""
    return {
        name: value.detach().clone()
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor)
    }
