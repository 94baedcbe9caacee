from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from probes.dot import dot_source, dot_svg, renderer
from probes.errors import RequestError
from probes.graph import Graph, Trace, blamed, cut


def here() -> tuple[str, str | None]:
    return "net", "train.py:7"


def traced(depth: int) -> Graph:
    model = nn.Linear(3, 3)
    with Trace(model, here) as trace:
        x = model(torch.ones(2, 3))
        for _ in range(depth):
            x = x.sin()
        x.sum().backward()
    graph = trace.graph
    assert graph is not None
    return graph


def test_a_graph_names_operators_and_parameters() -> None:
    graph = traced(2)
    names = [each.name for each in graph.operators]
    assert names[:3] == ["net.SumBackward0-1", "net.SinBackward0-2", "net.SinBackward0-1"]
    bias = next(each for each in graph.operators if each.parameter == "bias")
    assert (bias.shape, bias.site, bias.reads) == ((3,), "model", ())
    assert graph == traced(2)
    assert Graph.from_json(graph.as_json()) == graph


def test_the_way_from_the_culprit_to_the_loss_is_marked() -> None:
    graph = traced(3)
    sines = sorted(each.sequence or 0 for each in graph.operators if "Sin" in each.op)
    found = blamed(graph, [999, sines[1]])
    guilty = [each.name for each in found.operators if each.guilty]
    assert guilty == ["net.SumBackward0-1", "net.SinBackward0-3", "net.SinBackward0-2"]
    assert blamed(graph, [999]) == graph
    whole = blamed(graph, [], "weight")
    assert whole.operators[-1].parameter == "weight"
    assert whole.operators[-1].guilty


def test_a_deep_graph_is_cut_to_the_way_without_recursion() -> None:
    graph = blamed(traced(4000), [0])
    small = cut(graph)
    assert (graph.total, small.total) == (4005, 4005)
    assert len(small.operators) <= 61
    gap = next(each for each in small.operators if each.omitted)
    ends = [each for each in small.operators if gap.name in each.reads]
    assert len(ends) == len(gap.reads) == 1
    names = {each.name for each in small.operators}
    assert all(set(each.reads) <= names for each in small.operators)
    source = dot_source(small)
    assert f'"{gap.name}" -> "{ends[0].name}"' in source
    assert not re.search(r"\d{9,}", source)  # no address of this process
    assert source == dot_source(cut(blamed(traced(4000), [0])))


def test_what_lies_near_the_loss_is_kept_where_nothing_is_guilty() -> None:
    small = cut(traced(200), most=20)
    assert small.operators[0].op == "SumBackward0"
    assert 2 < len(small.operators) <= 20


def test_modules_are_clusters_and_text_stays_text() -> None:
    model = nn.Linear(2, 1)
    with Trace(model, lambda: ('"];<b>\\', None)) as trace:
        model(torch.ones(1, 2)).sum().backward()
    assert trace.graph is not None
    source = dot_source(trace.graph)
    assert 'label="\\"];<b>\\\\"' in source
    svg = dot_svg(source)
    assert "&lt;b&gt;" in svg
    assert "<b>" not in svg


def test_without_a_backward_pass_there_is_no_graph() -> None:
    with Trace(nn.Linear(2, 1), here) as trace:
        torch.ones(2).sin()
    assert trace.graph is None


def test_a_missing_dot_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert renderer() is not None
    monkeypatch.setattr("probes.dot.shutil.which", lambda name: None)
    with pytest.raises(RequestError, match="neither `dot` nor `graphviz-pure` was found"):
        dot_svg("digraph {}")
