"""What trained parameters went into, and the code lets go before anybody reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.raised import own_frame, place_in
from probes.reading.unread_names import Unread, called_at, first_line, unread_at
from probes.stepping.one_step import step_under


@dataclass(frozen=True, slots=True)
class Dropped:
    """What a statement makes of parameters that the loss does not depend on, and nobody reads.

    site: the module that they all are of. names: theirs. file: of the statement.
    """

    site: str
    names: tuple[str, ...]
    unread: Unread
    file: str

    @property
    def source(self) -> str:
        """`file.py:line` where the name is set anew, which should read it; else where it is set."""
        return place_in(self.file, self.unread.again or self.unread.line)


def dropped(experiment: Experiment, names: Sequence[str]) -> list[Dropped]:
    """The innermost statements of a step that nobody reads, of these unused parameters alone.

    Where a loop sets a name in each round, the parameters of its last round may be used.
    """
    reads = _Reads(experiment.subject.model)
    try:
        step_under(experiment.subject, experiment.step_batch, reads)
    except ExperimentError:
        return []
    found, unused, told = list[Dropped](), set(names), set[str]()
    for name in names:
        one = None if name in told else _dropped(reads, name, unused)
        if one is not None:
            found.append(one)
            told.update(one.names)
    return found


def is_dropped(experiment: Experiment, module: str) -> bool:
    """Whether the module is, with what it holds, in such a statement, as far as gradients tell."""
    stepped, own = experiment.stepped, f"{module}."
    names = [name for name in stepped.rates if stepped.grads.get(name) is None]
    found = dropped(experiment, names) if any(name.startswith(own) for name in names) else []
    return any(name.startswith(own) for each in found for name in each.names)


def _dropped(reads: _Reads, name: str, unused: set[str]) -> Dropped | None:
    for code, line in reads.places.get(name, ()):
        every = list(reads.at[code, first_line(code, line)])
        unread = unread_at(code, line) or _bare(code, line, every)
        if unread is None:
            continue
        last = max((i for i, each in enumerate(every) if each in unused), default=-1)
        own = every[: last + 1] if unread.by_round else every
        if unused.issuperset(own):
            return Dropped(_site(own), tuple(own), unread, code.co_filename)
    return None


def _bare(code: CodeType, line: int, names: Sequence[str]) -> Unread | None:
    """Where what is called there is the module of the parameters, and what it gives is not kept."""
    called = called_at(code, line)
    return Unread(None, line) if called and f".{_site(names)}".endswith(f".{called}") else None


class _Reads(TorchFunctionMode):
    """While it is entered, notes at which statements of the user's a parameter is read.

    places: by parameter, the code and line of each of the user's frames, from the innermost out.
    at: by code and a statement's first line, the parameters in the order of their first read.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.places: dict[str, tuple[tuple[CodeType, int], ...]] = {}
        self.at: dict[tuple[CodeType, int], dict[str, None]] = {}
        self._names = {id(p): n for n, p in model.named_parameters() if p.requires_grad}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result; its parameters were noted."""
        if getattr(func, "__name__", "") != "__get__":
            given = _tensors([*args, *(kwargs or {}).values()])
            names = [n for n in (self._names.get(id(each)) for each in given) if n is not None]
            if names:
                self._note(names)
        return func(*args, **(kwargs or {}))

    def _note(self, names: Iterable[str]) -> None:
        frames = tuple((each.f_code, each.f_lineno) for each in _frames())
        for name in names:
            self.places.setdefault(name, frames)
            for code, line in frames:
                self.at.setdefault((code, first_line(code, line)), {})[name] = None


def _frames() -> Iterator[FrameType]:
    """The user's own, from the innermost out."""
    frame = own_frame()
    while frame is not None:
        yield frame
        frame = None if frame.f_back is None else own_frame(frame.f_back)


def _tensors(given: Iterable[Any]) -> Iterator[Tensor]:
    for each in given:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, (list, tuple)):
            yield from _tensors(each)


def _site(names: Sequence[str]) -> str:
    """The innermost module that holds them all; that of the first where none does."""
    first, *others = (name.split(".")[:-1] for name in names)
    shared = [
        part for i, part in enumerate(first) if all(o[: i + 1] == first[: i + 1] for o in others)
    ]
    return ".".join(shared or first) or names[0]
