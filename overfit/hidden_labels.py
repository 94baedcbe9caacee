"""Targets with the labels whose score a mask fills in, whatever the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from overfit.targets import Piece, Target, read_targets
from probes.scoring.tied import filled, kept, redraw, sunk
from probes.subject import Batch, Subject


def with_hidden(
    subject: Subject, batches: Sequence[Batch], targets: Sequence[Target]
) -> tuple[Target, ...]:
    """The same targets, with `hidden` told of every piece whose scores were seen.

    Where the loss is run under other weights, the model has its own again afterwards.
    """
    drawn: dict[int, tuple[Target, ...]] = {}

    def again(draw: int) -> tuple[Target, ...]:
        if draw not in drawn:
            with kept(subject.model):
                redraw(subject.model, draw)
                drawn[draw] = read_targets(subject, batches).found
        return drawn[draw]

    def pieces(number: int, target: Target) -> Iterator[Piece]:
        for place, piece in enumerate(target.pieces):

            def scores(draw: int, place: int = place) -> Tensor | None:
                found = again(draw)
                return found[number].pieces[place].scores if number < len(found) else None

            if piece.scores is None:
                yield piece
            else:
                told = _told(piece, filled(piece.scores, piece.labels, scores))
                far = sunk(piece.scores, piece.labels, scores)
                yield replace(told, hidden=far if told.hidden is None else told.hidden | far)

    return tuple(
        replace(each, pieces=tuple(pieces(number, each))) if each.kind == "class" else each
        for number, each in enumerate(targets)
    )


def _told(piece: Piece, others: Tensor) -> Piece:
    """Of outputs with the same score the first is the answer."""
    before = torch.arange(others.shape[-1], device=others.device) < piece.labels[..., None]
    return replace(piece, hidden=(others & before).any(-1))
