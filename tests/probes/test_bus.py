from __future__ import annotations

import copy
import io
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from probes.bus import Bus, Kind, See
from probes.modules import watched_modules


class Notes:
    """Writes down which site was shown, and the largest number of it."""

    def __init__(self, *kinds: Kind) -> None:
        self.seen: list[tuple[int, Tensor]] = []
        self.sees: Mapping[Kind, See] = dict.fromkeys(kinds or Kind, self.see)

    def see(self, number: int, tensor: Tensor) -> None:
        self.seen.append((number, tensor.detach().abs().amax()))

    def names(self, bus: Bus) -> list[tuple[str, str]]:
        return [(bus.sites[number].kind.value, bus.sites[number].name) for number, _ in self.seen]


def hook_count(model: nn.Module) -> int:
    modules = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    always = sum(len(m._forward_hooks_always_called) for m in model.modules())
    parameters = sum(len(p._post_accumulate_grad_hooks or ()) for p in model.parameters())
    return modules + always + parameters


def shown(model: nn.Module, *inputs: Tensor, kinds: tuple[Kind, ...] = ()) -> list[tuple[str, str]]:
    notes = Notes(*kinds)
    with Bus(model, [notes]) as bus:
        output = model(*inputs)
        if Kind.OUTPUT_GRAD in notes.sees:
            tensors = output.values() if isinstance(output, dict) else [output]
            sum(each.sum() for each in tensors).backward()
    return notes.names(bus)


def graph_size(output: Tensor) -> int:
    todo, known = [output.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in known:
            known.add(node)
            todo += [below for below, _ in node.next_functions]
    return len(known)


def test_outputs_come_in_forward_order_and_gradients_in_backward_order() -> None:
    model = nn.Sequential(OrderedDict(first=nn.Linear(3, 4), act=nn.Tanh(), last=nn.Linear(4, 2)))
    names = shown(model, torch.ones(2, 3))
    of_kind = {kind: [name for each, name in names if each == kind] for kind, _ in names}
    assert of_kind["output"] == ["first", "act", "last", "model"]
    assert of_kind["output_grad"] == ["last", "model", "act", "first"]
    assert sorted(of_kind["param_grad"]) == [
        "first.bias",
        "first.weight",
        "last.bias",
        "last.weight",
    ]


@pytest.mark.parametrize(
    ("cell", "parts"),
    [
        (nn.LSTM(3, 4, num_layers=2), ["[0]", "[1][0]", "[1][1]"]),
        (nn.GRU(3, 4, bidirectional=True), ["[0]", "[1]"]),
        (nn.RNN(3, 4), ["[0]", "[1]"]),
        (nn.LSTMCell(3, 4), ["[0]", "[1]"]),
        (nn.GRUCell(3, 4), [""]),
        (nn.RNNCell(3, 4), [""]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_recurrent_modules_show_outputs_and_states(cell: nn.Module, parts: list[str]) -> None:
    model = nn.ModuleDict({"cell": cell})
    notes = Notes(Kind.OUTPUT, Kind.OUTPUT_GRAD)
    with Bus(model, [notes]) as bus:
        shape = (2, 3) if isinstance(cell, nn.RNNCellBase) else (5, 2, 3)
        output = model["cell"](torch.ones(shape))
        first = output if isinstance(output, Tensor) else output[0]
        first.sum().backward()
    names = notes.names(bus)
    assert [("output", "cell" + part) for part in parts] == names[: len(parts)]
    assert ("output_grad", "cell" + parts[0]) in names


def test_a_packed_sequence_is_shown_under_the_tuple_that_holds_it() -> None:
    model = nn.ModuleDict({"rnn": nn.LSTM(3, 4, batch_first=True, bidirectional=True)})
    packed = nn.utils.rnn.pack_padded_sequence(torch.ones(2, 5, 3), torch.tensor([5, 2]), True)
    notes = Notes(Kind.OUTPUT)
    with Bus(model, [notes]) as bus:
        model["rnn"](packed)
    assert [name for _, name in notes.names(bus)] == ["rnn[0]", "rnn[1][0]", "rnn[1][1]"]


class Pair(NamedTuple):
    hidden: Tensor
    cell: Tensor


@dataclass
class Answer:
    logits: Tensor
    note: str = "kept"


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda x: {"logits": x, "aux": (x * 2, None)}, ["model.logits", "model.aux[0]"]),
        (lambda x: (x, [x * 2, 3]), ["model[0]", "model[1][0]"]),
        (lambda x: Pair(x, x * 2), ["model.hidden", "model.cell"]),
        (lambda x: Answer(x), ["model.logits"]),
        (lambda x: BaseModelOutput(last_hidden_state=x), ["model.last_hidden_state"]),
        (lambda x: "text", []),
    ],
    ids=["dict", "tuple", "namedtuple", "dataclass", "ModelOutput", "string"],
)
def test_structured_outputs_show_their_parts(
    make: Callable[[Tensor], object], names: list[str]
) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> object:
            return make(self.body(x))

    notes = Notes(Kind.OUTPUT)
    model = Model()
    with Bus(model, [notes]) as bus:
        model(torch.ones(1, 2))
    assert [name for _, name in notes.names(bus)] == ["body", *names]


def test_attention_and_parametrised_modules_are_sites() -> None:
    model = nn.ModuleDict(
        {
            "attention": nn.MultiheadAttention(4, 2, batch_first=True),
            "linear": nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        }
    )
    notes = Notes(Kind.OUTPUT)
    with Bus(model, [notes]) as bus:
        x = torch.ones(1, 3, 4)
        model["linear"](model["attention"](x, x, x)[0])
    names = {name for _, name in notes.names(bus)}
    assert {"attention[0]", "attention[1]", "linear"} <= names


def test_a_shared_module_is_seen_under_its_first_name_and_a_child_called_model_keeps_its_own() -> (
    None
):
    shared = nn.Linear(2, 2)
    model = nn.Sequential(OrderedDict(a=shared, model=nn.Tanh(), b=shared))
    names = [name for _, name in shown(model, torch.ones(1, 2), kinds=(Kind.OUTPUT,))]
    assert names == ["a", "model", "a", "<model>"]
    assert [name for name, _ in watched_modules(model)] == ["<model>", "a", "model"]
    listed = nn.ModuleList([nn.Sequential(nn.Tanh()), nn.ModuleDict({"b": nn.Sequential(shared)})])
    names = [name for name, _ in watched_modules(listed)]  # a list has no forward, its entries have
    assert names == ["model", "0", "0.0", "1", "1.b", "1.b.0"]


def test_a_module_that_is_never_called_and_a_skipped_hook_show_nothing() -> None:
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    notes = Notes(Kind.OUTPUT)
    with Bus(model, [notes]) as bus:
        model["used"].forward(torch.ones(1, 2))  # goes round the hooks
        assert notes.seen == []
        model["used"](torch.ones(1, 2))
    assert [name for _, name in notes.names(bus)] == ["used"]


def test_inplace_relu_trains_and_both_sites_have_their_gradient() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 1))
    names = shown(model, torch.ones(2, 3))
    assert {("output_grad", "0"), ("output_grad", "1"), ("output", "1")} <= set(names)


def test_the_graph_has_as_many_nodes_watched_as_bare() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 1))
    bare = graph_size(model(torch.ones(2, 3)))
    with Bus(model, [Notes()]):
        watched = graph_size(model(torch.ones(2, 3)))
    assert bare == watched


def test_evaluation_is_not_shown_but_a_frozen_part_of_training_is() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.head = nn.Linear(2, 2), nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.frozen(x)
            return self.head(x)

    model, notes = Model(), Notes(Kind.OUTPUT)
    with Bus(model, [notes]) as bus:
        with torch.no_grad():
            model(torch.ones(1, 2))
        assert notes.seen == []
        with torch.no_grad(), pytest.raises(RuntimeError, match="shapes"):
            model(torch.ones(1, 3))
        model(torch.ones(1, 2))
    assert [name for _, name in notes.names(bus)] == ["frozen", "head", "model"]


def test_hooks_are_gone_after_an_exception_and_others_stay() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    calls: list[int] = []
    theirs = model[0].register_forward_hook(lambda *_: calls.append(1))
    before = hook_count(model)
    with pytest.raises(RuntimeError, match="shapes"), Bus(model, [Notes()]):
        model(torch.ones(1, 3))
    assert hook_count(model) == before
    model(torch.ones(1, 2))
    assert calls == [1]
    theirs.remove()


def test_a_half_failed_registration_leaves_no_hook() -> None:
    class Stubborn(nn.Tanh):
        def register_forward_hook(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
            raise RuntimeError("no hooks here")

    model = nn.Sequential(nn.Linear(2, 2), Stubborn(), nn.Linear(2, 2))
    bus = Bus(model, [Notes()])
    with pytest.raises(RuntimeError, match="no hooks here"):
        bus.__enter__()
    assert hook_count(model) == 0
    assert not bus.listening


def test_a_graph_that_outlives_the_bus_is_silent() -> None:
    model, notes = nn.Linear(2, 1), Notes(Kind.OUTPUT_GRAD)
    with Bus(model, [notes]):
        loss = model(torch.ones(1, 2)).sum()
    loss.backward()
    assert notes.seen == []


def test_copied_and_saved_models_are_not_watched_and_can_be_saved() -> None:
    model, notes = nn.Sequential(nn.Linear(2, 2)), Notes()
    with Bus(model, [notes]):
        twin = copy.deepcopy(model)
        twin(torch.ones(1, 2)).sum().backward()
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        torch.load(file, weights_only=False)(torch.ones(1, 2)).sum().backward()
    assert notes.seen == []


def test_two_buses_on_one_model_both_see_and_leave_alone() -> None:
    model, inner, outer = nn.Linear(2, 2), Notes(Kind.OUTPUT), Notes(Kind.OUTPUT)
    with Bus(model, [outer]):
        with Bus(model, [inner]):
            model(torch.ones(1, 2))
        model(torch.ones(1, 2))
    assert (len(inner.seen), len(outer.seen)) == (1, 2)
    assert hook_count(model) == 0


def test_a_module_that_returns_its_parameter_gets_no_hook_that_stays() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Parameter(torch.ones(2, 2))

        def forward(self) -> Tensor:
            return self.rows

    model = Table()
    with Bus(model, [Notes(Kind.OUTPUT, Kind.OUTPUT_GRAD)]):
        model().sum().backward()
    assert not model.rows._backward_hooks


def test_several_observers_share_one_hook() -> None:
    model, one, two = nn.Linear(2, 2), Notes(Kind.OUTPUT), Notes(Kind.OUTPUT)
    with Bus(model, [one, two]):
        assert len(model._forward_hooks) == 2  # what is shown, and the end of a pass
        model(torch.ones(1, 2))
    assert len(one.seen) == len(two.seen) == 1


def test_hooks_of_the_users_own_on_a_shown_output_stay_and_keep_their_order() -> None:
    model, notes, calls = nn.Linear(2, 2), Notes(Kind.OUTPUT_GRAD), []
    with Bus(model, [notes]):
        output = model(torch.ones(1, 2))
        mine = output.register_hook(lambda grad: calls.append(len(notes.seen)))
        gone = output.register_hook(lambda grad: calls.append(-1))
        gone.remove()
        output.sum().backward()
    assert calls == [1]
    mine.remove()
    assert len(output._backward_hooks) == 1
