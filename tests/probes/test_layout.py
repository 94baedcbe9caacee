from __future__ import annotations

import pytest

from probes import Labels, Layout, Mask, Reads, State
from probes.errors import RequestError


def test_what_is_left_out_has_the_defaults_of_the_contract() -> None:
    mask = Mask("mask")
    assert mask.hides == ("ids",)
    assert (mask.axis, mask.means, mask.side, mask.may_be_empty) == (
        "token",
        "keep",
        "right",
        False,
    )
    labels = Labels("y", "logits")
    assert (labels.shift, labels.ignore, labels.kind, labels.mask) == (0, -100, "class", None)
    reads = Reads("logits", "ids")
    assert (reads.rule, reads.keys) == ("same", ())
    state = State("rnn")
    assert state.over == "time"
    assert (state.carried, state.detached) == (True, False)
    assert Layout() == Layout(axes={}, masks=(), labels=(), reads=(), states=(), names={})


@pytest.mark.parametrize(
    ("part", "line"),
    [
        (Mask("m", axis=1), "Mask('m', axis=1)"),
        (Mask("m", (), 2, "hide", "left", True),
         "Mask('m', hides=(), axis=2, means='hide', side='left', may_be_empty=True)"),
        (Labels("y", "out", ignore=None), "Labels('y', output='out', ignore=None)"),
        (Reads("out", "ids", "at", ("p",)), "Reads('out', of='ids', rule='at', keys=('p',))"),
        (State("rnn"), "State('rnn')"),
    ],
)  # fmt: skip
def test_a_part_prints_as_the_shortest_call_that_makes_it(part: object, line: str) -> None:
    assert repr(part) == line
    assert eval(line) == part


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: Mask("m", ("ids",), means="keeps"),
            "`Mask.means` is 'keeps', which is none",
        ),
        (lambda: Mask("m", ("ids",), side="top"), "`Mask.side` is 'top'"),
        (lambda: Mask("m", ("ids",), axis="tokens"), "`Mask.axis` is 'tokens'"),
        (lambda: Labels("y", "o", kind="float"), "`Labels.kind` is 'float'"),
        (lambda: Reads("o", "ids", rule="past"), "`Reads.rule` is 'past'"),
        (lambda: Reads("o", "ids", rule="at"), "has no `keys`: name the batch keys"),
        (lambda: State("rnn", over="day"), "`State.over` is 'day'"),
        (
            lambda: Layout(axes={"ids": ("sample", "word")}),
            "`Layout.axes['ids']` names the axis",
        ),
    ],
)
def test_a_wrong_word_is_named_with_the_right_ones(make, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        make()
    assert sentence in str(caught.value)
