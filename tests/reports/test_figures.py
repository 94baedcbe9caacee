from __future__ import annotations

import base64
import io
import math

import numpy as np
import pytest
from PIL import Image

from probes.run import Matrix
from reports.figures import (
    alignment,
    attention_map,
    clipping,
    curves,
    gradients,
    heatmap,
    measured,
    updates,
)
from reports.figures.alignment import Alignment
from reports.figures.attention import Attention, heads
from reports.figures.clipping import Ledger
from reports.figures.curves import Bound, Course, Curve
from reports.figures.figure import identifier, number, thinned
from reports.figures.measured import Measured
from reports.figures.png import data_uri
from reports.figures.svg import apart, blocks, short
from reports.gallery import gallery


def matrix(values: np.ndarray, seen: np.ndarray | None = None) -> Matrix:
    steps = np.arange(len(values), dtype=np.int64)
    sites = tuple(f"p{place}" for place in range(values.shape[1]))
    known = np.ones(values.shape, bool) if seen is None else seen
    return Matrix(steps, np.ones_like(steps), sites, values.astype(np.float32), known)


def attended(weights: np.ndarray, **changes: object) -> Attention:
    heads, queries, keys = weights.shape
    given: dict[str, object] = {
        "name": "attention-000",
        "site": "read",
        "layer": 0,
        "sample": "sample 0",
        "row": None,
        "heads": tuple(map(str, range(heads))),
        "weights": weights,
        "query_axis": "token",
        "key_axis": "unit",
        "queries": tuple(f"q{place}" for place in range(queries)),
        "keys": tuple(f"k{place}" for place in range(keys)),
        "query_padding": np.zeros(queries, bool),
        "key_padding": np.zeros(keys, bool),
        "hidden": np.zeros(keys, bool),
        "masked": np.zeros(queries, bool),
    }
    return Attention(**(given | changes))  # type: ignore[arg-type]


def test_a_png_holds_one_pixel_a_cell() -> None:
    cells = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    palette = np.array([[1, 2, 3, 0], [9, 8, 7, 128], [255, 0, 0, 255]], np.uint8)
    head, _, body = data_uri(cells, palette).partition(",")
    assert head == "data:image/png;base64"
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(body))).convert("RGBA"))
    np.testing.assert_array_equal(pixels, palette[cells])


def test_blocks_cover_the_marked_cells_and_no_other() -> None:
    marked = np.random.default_rng(0).random((20, 30)) < 0.4
    covered = np.zeros_like(marked)
    for row, column, rows, columns in blocks(marked):
        area = (slice(row, row + rows), slice(column, column + columns))
        assert not covered[area].any()
        covered[area] = True
    np.testing.assert_array_equal(covered, marked)


def test_alike_rows_are_one_block() -> None:
    assert list(blocks(np.ones((9, 7), bool))) == [(0, 0, 9, 7)]


def test_norms_have_their_own_colours_for_odd_ones() -> None:
    cells = np.array([[np.nan, np.inf, -1.0, 0.0, 1e-9, 1e-4, 1.0]])
    found = heatmap._indices(cells, -4.0, 0.0)[0].tolist()
    assert found == [heatmap.ODD] * 2 + [heatmap.NOT_SEEN, heatmap.ZERO] + [3, 3, 255]


def test_bins_keep_the_largest_and_every_nan() -> None:
    values = np.random.default_rng(0).random((3, 5000))
    values[1, 4321] = np.nan
    values[2, 7] = 9.0
    binned, notes = heatmap._binned(values)
    assert binned.shape == (3, 1000)
    assert np.isnan(binned[1]).sum() == 1
    assert binned[2].max() == 9
    assert notes == ["5000 steps are binned by their maximum into 1000 columns"]


def test_a_gradients_figure_says_what_is_odd() -> None:
    values = np.full((4, 5), 0.1)
    values[2:, 1], values[:, 2], values[1, 3] = np.nan, 0, 7
    seen = np.ones((4, 5), bool)
    seen[:, 4] = False
    figure = gradients.draw(matrix(values, seen), "run", "norm_before_clip")
    assert "1 parameter has a gradient that is not finite, first at step 2: `p1`" in figure.alt
    assert "The largest finite norm is 7, of `p3` at step 1." in figure.alt
    assert "Zero at every step: `p2`." in figure.alt
    assert "Never seen: `p4`." in figure.alt
    assert "before clipping" in figure.notes[0]
    rows = {row[0]: row[1:] for row in figure.table.rows}
    assert rows["p1"] == ("0.1", "0.1", "0.1", "NaN", "2 of 4", "0")
    assert rows["p4"][-1] == "4 of 4"


def test_the_worst_parameters_stay_in_a_large_table() -> None:
    values = np.full((2, 500), 0.1)
    values[1, 499] = np.nan
    table = gradients.draw(matrix(values), "run", "norm").table
    assert len(table.rows) == heatmap.TABLE
    assert table.rows[-1][0] == "p499"
    assert table.said is not None


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (1200, 3)])
def test_gradients_of_any_size(shape: tuple[int, int]) -> None:
    figure = gradients.draw(matrix(np.ones(shape)), "run", "norm")
    assert len(figure.svg) < 100_000


def test_curves_name_their_last_values_with_counts() -> None:
    loss = Curve("loss", (0, 1, 2), (2.0, math.nan, 0.5))
    right = Curve("string", (0, 2), (0.0, 0.75), (0.0, 3.0), (4.0, 4.0))
    figure = curves.draw(Course("suite", "Overfitting", (loss,), (right,), "It ended."))
    assert "from 2 at step 0 to 0.5 at step 2" in figure.alt
    assert "It is not finite at 1 of 3 steps." in figure.alt
    assert "Right at the last evaluation: string 3 of 4. It ended." in figure.alt
    assert figure.table.rows == (("0", "2", "0 of 4"), ("1", "NaN", ""), ("2", "0.5", "3 of 4"))
    assert "currentColor" in figure.svg
    assert "#010203" not in figure.svg
    assert "#ffffff" not in figure.svg


def test_a_loss_below_zero_has_a_linear_scale_and_says_so() -> None:
    course = Course("suite", "s", (Curve("loss", (0, 1), (1.0, -1.0)),), ())
    assert any("its scale is linear" in note for note in curves.draw(course).notes)
    positive = Course("suite", "s", (Curve("loss", (0, 1), (1.0, 0.1)),), ())
    assert curves.draw(positive).notes == ()


def test_ids_of_two_curves_do_not_clash() -> None:
    line = (Curve("loss", (0, 1), (1.0, 0.5)),)
    first, second = (curves.draw(Course(part, "s", line, ())).svg for part in ("a", "b"))
    assert ' id="a.' in first
    assert str(first).replace('"a.', '"b.').replace("#a.", "#b.") == second


def test_an_attention_figure_says_where_it_looks() -> None:
    weights = np.full((2, 2, 3), 1 / 3)
    weights[1, 0] = [0.1, 0.9, 0.0]
    figure = attention_map.draw(attended(weights))
    assert figure.alt.startswith("Head 1 is sharpest at q0 → k1 (0.9).")
    assert figure.table.rows[0] == ("q0", "k1", "0.9", "")
    assert "2 heads, 1 large; 2 × 3" in figure.notes[0]  # noqa: RUF001


def test_padding_at_an_end_is_cut_where_nothing_is_lost() -> None:
    from reports.figures.attention import trimmed

    weights = np.full((1, 6, 7), 0.5)
    weights[:, :, 2:] = 0
    ends = np.arange(7) >= 2
    given = attended(weights, query_padding=ends[:6], key_padding=ends)
    cut = trimmed(given)
    assert (cut.weights.shape, cut.cut) == ((1, 4, 4), (2, 3))
    assert (cut.queries, cut.keys) == (given.queries[:4], given.keys[:4])
    drawn = attention_map.draw(cut)
    assert "One head; 6 × 7;" in drawn.notes[0]  # noqa: RUF001
    assert "Not drawn: 2 rows and 3 columns, padding at the end." in drawn.notes
    weights[0, 0, 6], weights[0, 5, 0] = 0.1, np.nan  # weight on padding, and a NaN, stay
    kept = attended(weights, query_padding=ends[:6], key_padding=ends)
    assert trimmed(kept) is kept


def test_weight_on_padding_is_said() -> None:
    weights = np.array([[[0.75, 0.25]]])
    padding = np.array([False, True])
    assert (
        "Up to 25.0% of a query's" in attention_map.draw(attended(weights, key_padding=padding)).alt
    )
    weights = np.array([[[1.0, 0.0]]])
    said = attention_map.draw(attended(weights, key_padding=padding)).alt
    assert "No weight lies on padding." in said


def test_masked_and_odd_rows_are_said_and_hatched() -> None:
    weights = np.array([[[0.5, 0.5], [0.0, 0.0], [np.nan, np.nan]]])
    figure = attention_map.draw(attended(weights, masked=np.array([False, True, False])))
    assert "1 rows of weights, over all heads, are not finite." in figure.alt
    assert "1 rows that are no padding have every key masked." in figure.alt
    assert [row[3] for row in figure.table.rows] == ["", "every key masked", "not finite"]
    assert 'class="off"' in figure.svg
    assert 'class="odd"' in figure.svg


def test_a_long_attention_is_small_for_all_heads_and_whole_for_the_chosen() -> None:
    weights = np.zeros((20, 512, 512))
    weights[:, np.arange(512), np.arange(512)] = 1
    figure = attention_map.draw(attended(weights), [3])
    assert figure.size < 300_000
    assert figure.svg.count("<image") == 20 + 2  # small ones, the large one, its scale
    assert 'id="attention-000.h3"' in figure.svg
    assert any("of 64 cells a side, by the maximum" in note for note in figure.notes)
    assert (attention_map.pooled(weights[0], 64).max(axis=1) == 1).all()


def test_a_picture_holds_the_weights_within_the_step_that_is_said() -> None:
    weights = np.linspace(0, 1, 5000)[None]
    read = (attention_map.indices(weights) / (attention_map.ODD - 1)) ** (1 / attention_map.POWER)
    assert np.abs(read - weights).max() <= attention_map.STEP
    assert attention_map.palette()[:255, 3].tolist() == list(range(255))
    assert attention_map.indices(np.array([[np.nan, -np.inf]])).tolist() == [[255, 255]]


def test_heads_are_told_apart() -> None:
    even, own = np.full((6, 6), 1 / 6), np.eye(6)
    first, odd = np.zeros((6, 6)), np.full((6, 6), np.nan)
    first[:, 0] = 1
    keys = ("[CLS]", "a", "b", "c", "[SEP]", "<pad>")
    padding = np.arange(6) == 5
    map_ = attended(np.stack([even, own, first, odd]), keys=keys, key_axis="token")
    remarks = [head.remark for head in heads(map_)]
    assert remarks[:3] == ["dead: even", "each looks at itself", "dead: all on special tokens"]
    assert remarks[3] == "6 rows not finite"
    found = heads(attended(np.stack([even]), key_padding=padding, query_padding=padding))[0]
    assert found.padding == pytest.approx(1 / 6)
    assert (found.special, found.diagonal) == (None, None)
    table = attention_map.summary(heads(map_))
    assert table.rows[1][:6] == ("0", "read", "1", "0.000", "", "1.000")
    assert table.rows[1][6:] == ("0.333", "each looks at itself")
    nobody = heads(attended(even[None], query_padding=np.ones(6, bool)))[0]
    assert (nobody.entropy, nobody.remark) == (None, "no query")


def test_a_map_that_is_nearly_even_is_drawn_small_and_called_so() -> None:
    even = np.full((2, 3, 10), 0.1)
    figure = attention_map.draw(attended(even))
    assert figure.alt.startswith("Nearly even: no weight is above 0.1, where an even spread over")
    assert "none large" in figure.notes[0]
    sharp = even.copy()
    sharp[1, 0] = [0.9] + [0.1 / 9] * 9
    assert len(attention_map.draw(attended(sharp)).svg) > 1.5 * len(figure.svg)
    padding = np.arange(10) >= 2  # of two keys left, half the weight each is even
    halves = np.where(padding, 0, 0.5) * np.ones((2, 3, 1))
    assert attended(halves, key_padding=padding).flat


def test_maps_across_kinds_stand_first_and_are_drawn_first() -> None:
    weights = np.full((1, 4, 5), 0.2)
    maps = [
        attended(weights, name=f"m{place}", sample=f"sample {place // 3}", named=place % 3 == 2)
        for place in range(6)
    ]
    whole = gallery(maps)
    assert [[each.id for each in group.figures] for group in whole.groups] == [
        ["m2", "m0", "m1"],
        ["m5", "m3", "m4"],
    ]
    assert whole.left_out is None
    cut = gallery(maps, room=int(3.5 * attention_map.draw(maps[0], [], 24).size))
    assert {each.id for group in cut.groups for each in group.figures} == {"m2", "m4", "m5"}
    assert cut.left_out is not None
    assert cut.left_out.startswith("3 of 6 maps are drawn")
    assert cut.names["maps"]  # one is large, whatever the room


def test_spans_that_are_read_elsewhere_are_told_from_those_that_are_not_seen() -> None:
    declared = np.array([[[0, 1], [2, 3], [4, 4]], [[0, 0], [1, 1], [-1, -1]]])
    read = declared.copy()
    read[1, 0] = -1  # padding, say: nothing is seen to depend on it
    fine = alignment.draw(Alignment("a", ("sample", "unit"), "ids", declared, read))
    assert fine.alt.startswith("All 4 spans that were seen are read where they are declared.")
    assert "Of 1 more nothing was seen to matter." in fine.alt
    read[0, 1] = [3, 4]
    off = alignment.draw(Alignment("a", ("sample", "unit"), "ids", declared, read))
    assert "1 of 4 spans are read elsewhere than declared, first at sample 0, unit 1:" in off.alt
    assert "declared 2 to 3, read 3 to 4." in off.alt
    assert 'class="bar bad"' in off.svg
    assert off.table.rows[0] == ("0", "1", "2 to 3", "3 to 4", "differs")
    assert len(off.table.rows) == 5


def test_wilson_intervals_are_those_of_the_book() -> None:
    low, high = curves.wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert curves.wilson(0, 20)[0] == 0
    assert curves.wilson(20, 20)[1] == 1
    assert curves.wilson(math.nan, 3) == curves.wilson(4, 3) == (0, 1)


def test_floors_and_ceilings_are_named_on_their_lines() -> None:
    right = Curve("key", (0, 10), (0.0, 0.5), (0.0, 5.0), (10.0, 10.0))
    loss = Curve("loss", (0, 10), (2.0, 0.5))
    bounds = (
        Bound("floor", "majority", "key", 0.5, None),
        Bound("ceiling", "label noise", "key", 0.9, 0.1),
        Bound("floor", "<script>", None, None, 0.7),
    )
    figure = curves.draw(Course("s", "s", (loss,), (right,), bounds=bounds))
    assert "`key` ends at or below the floor majority (0.5)." in figure.alt
    assert "floor, key: majority (0.5)" in figure.svg
    assert "ceiling, key: label noise (0.9)" in figure.svg
    assert "floor: &lt;script&gt; (0.7)" in figure.svg
    assert "All 3 of them stand at the end of the table." in figure.notes
    assert figure.table.rows[-3] == ("floor, key: majority", "", "0.5")
    assert figure.table.rows[-1] == ("floor: <script>", "0.7", "")


def test_the_hardest_and_the_easiest_floor_of_each_head_are_drawn() -> None:
    floors = [Bound("floor", str(share), "key", share, None) for share in (0.5, 0.1, 0.9)]
    levels = [(bound, bound.accuracy) for bound in (*floors, Bound("floor", "?", "db", None, 2.0))]
    assert [level for _, level in curves.telling(levels)] == [0.9, 0.1]
    assert [level for _, level in curves.telling(levels, -1)] == [0.1, 0.9]


def test_a_clip_ledger_counts_what_was_clipped() -> None:
    total = Curve("total", (0, 1, 2), (4.0, 0.5, math.nan))
    factor = Curve("factor", (0, 1, 2), (0.25, 1.0, math.nan))
    figure = clipping.draw(Ledger("run", total, factor))
    assert (
        "1 of 3 steps had a total norm that is not finite. 1 of 2 steps were clipped" in figure.alt
    )
    assert "the smallest 0.25, at step 0" in figure.alt
    assert figure.table.rows[0] == ("0", "4", "0.25", "1")


def test_updates_are_binned_over_the_steps_between_two_looks() -> None:
    values, seen = np.ones((12, 3)), np.zeros((12, 3), bool)
    for step in range(12):
        seen[step, step % 3] = True
    figure = updates.draw(matrix(values, seen), "run")
    assert "12 steps are binned by their maximum into 4 columns." in figure.notes
    assert "Every update that was seen is finite." in figure.alt


def test_an_array_of_any_axes_names_its_largest_entry() -> None:
    values = np.zeros((2, 3, 4))
    values[1, 2, 3] = 7
    labels = {"unit": ("a", "b", "c")}
    kept = Measured("m", "m", values, ("sample", "unit", "token"), labels, {"of": "ids"})
    figure = measured.draw(kept)
    assert "The largest is 7, at sample 1, unit c, token 3." in figure.alt
    assert figure.svg.count("<svg") == 2
    assert figure.table.rows == (("1", "c", "3", "7"),)
    truths = Measured("t", "t", np.array([True, False]), ("key",), {}, {})
    assert measured.draw(truths).alt == "key (2). 1 of 2 entries are true."
    row, called = np.array([-2.0, math.nan]), {"mask": ("<b>", "x" * 99)}
    bars = measured.draw(Measured("b", "b", row, ("mask",), called, {}, "The effect, by mask"))
    assert bars.alt.startswith("The effect, by mask. 1 of 2 entries are not finite.")
    for words in (">-2<", ">NaN<", "&lt;b&gt;", 'class="bar against"', 'class="odd"'):
        assert words in bars.svg


def test_long_names_are_cut_where_they_stay_apart() -> None:
    names = [f"encoder.bert.encoder.layer.{place}.attention.self" for place in range(3)]
    assert apart(names, 24)[1] == "enco…er.1.attention.self"
    assert apart(["short", *names[:1]], 24) == ["short", short(names[0], 24)]


def test_tables_are_thinned_with_both_ends() -> None:
    rows = [(str(place),) for place in range(1000)]
    table = thinned(["step"], rows, most=10)
    assert len(table.rows) == 10
    assert (table.rows[0], table.rows[-1]) == (("0",), ("999",))
    assert table.said is not None
    assert table.said.startswith("10 of 1000 rows")
    assert thinned(["step"], rows[:10], most=10).said is None


def test_words() -> None:
    words = [number(each) for each in (None, 3, 0.123456, math.nan, -math.inf, "x")]
    assert words == ["\u2013", "3", "0.1235", "NaN", "-inf", "x"]
    assert identifier("a b/<c>") == "a-b-c"
    assert identifier("<>") == "item"
    assert short("encoder.layer.0.attention.self.query.weight", 20).endswith("query.weight")
    assert len(short("x" * 99, 20)) == 20
