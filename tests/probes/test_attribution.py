from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from probes import Labels, Layout, Mask, Subject
from probes.attribution import attribute, decide
from probes.attribution_record import write_attributions
from probes.finding import ExperimentError
from probes.record import Recorder
from probes.run import Run


class Sum(nn.Module):
    """Class 1 where a word of weight 1 stands in the first place; the second key is not read."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 2)
        self.head = nn.Linear(2, 2, bias=False)
        self.drop = nn.Dropout(0.5)
        with torch.no_grad():
            self.words.weight.copy_(torch.tensor([[0.0, 0], [1, 0], [0, 1], [2, 0], [-1, 0]]))
            self.head.weight.copy_(torch.eye(2))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        vectors = self.words(batch["ids"])  # (sample, token, 2)
        return self.drop(self.head(vectors * batch["mask"][..., None]))  # (sample, token, class)


BATCH = {
    "ids": torch.tensor([[1, 3, 4, 0], [2, 2, 1, 3]]),
    "mask": torch.tensor([[1.0, 1, 1, 0], [1, 1, 1, 1]]),
    "labels": torch.tensor([[0, 0, 1, -100], [1, 1, 0, 0]]),
}


def one(sample: int = 0) -> dict[str, Tensor]:
    return {name: tensor[sample : sample + 1] for name, tensor in BATCH.items()}


def test_a_linear_model_is_attributed_to_the_letter() -> None:
    model, batch = Sum().train(), one()
    state = torch.get_rng_state()
    model.eval()
    decision = decide(model(batch), "output", (1,))
    model.train()
    found = attribute(model, batch, model, decision, steps=4, besides=("mask",))
    assert (decision.choice, found.score, found.baseline_score) == (0, 2.0, 0.0)
    torch.testing.assert_close(found.sources[0].values, torch.tensor([[0.0, 2, 0, 0]]))
    assert abs(found.delta) < 1e-5
    assert found.shares == {"ids": 1.0}
    flows = {name: pytest.approx(2.0, abs=1e-5) for name in ("words", "head", "drop")}
    assert found.conductance == flows
    assert model.training
    assert "forward" not in vars(model.head)
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)


def test_what_is_looked_up_from_what_was_looked_up_speaks_for_it() -> None:
    torch.manual_seed(0)
    words, head = nn.Embedding(6, 3), nn.Linear(3, 2)
    model = nn.ModuleList([words, head])
    batch = {"ids": torch.tensor([[1, 2, 3, 4]]), "ends": torch.tensor([[3, 1]])}

    def predict(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        hidden = words(batch["ids"]).cumsum(1)  # (1, token, 3)
        spans = hidden.gather(1, batch["ends"][..., None].expand(-1, -1, 3))  # (1, span, 3)
        return {"scores": head(spans)}

    found = attribute(model, batch, predict, decide(predict(batch), "scores", (0,)), steps=4)
    assert [source.key for source in found.sources] == ["ends"]
    assert found.sources[0].values[0, 1] == 0
    assert found.sources[0].values[0, 0] != 0


def test_what_cannot_be_attributed_is_a_sentence() -> None:
    model, batch = Sum().eval(), one()
    with pytest.raises(ExperimentError, match="`x` is no output that decides: there are output"):
        decide(model(batch), "x", (0,))
    with pytest.raises(ExperimentError, match=r"places of shape \(4,\), and \(9,\) is none"):
        decide(model(batch), "output", (9,))
    linear = nn.Linear(2, 2)
    decision = decide(linear(torch.ones(1, 2)), "output", ())
    with pytest.raises(ExperimentError, match="looks no vector up by a key of the batch"):
        attribute(linear, one(), lambda _: linear(torch.ones(1, 2)), decision, besides=("mask",))


def subject(**changes: Any) -> Subject:
    layout = Layout(
        axes={"ids": ("sample", "token"), "labels": ("sample", "token")},
        masks=(Mask("mask", hides=("ids",), axis="token"),),
        labels=(Labels("labels", output="output"),),
        names={"ids": ["<pad>", "one", "<b>", "two", "minus"]},
    )
    given: dict[str, Any] = {"predict": lambda model, batch: model(batch), "layout": layout}
    return Subject(
        Sum(),
        [BATCH],
        lambda model, batch: model(batch).sum(),
        lambda model: torch.optim.SGD(model.parameters(), 0.1),
        **{**given, **changes},
    )


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1, -100, -100], "no, which is right"),
        ([1, 0, -100, -100], "no, where yes is right"),
        ([1, 1, -100, -100], "choice 0, where yes is right"),
    ],
)
def test_a_choice_has_the_name_that_a_label_has(
    tmp_path: Path, labels: list[int], words: str
) -> None:
    batch = {**one(), "labels": torch.tensor([labels])}
    layout = subject().layout
    assert layout is not None
    named = replace(layout, names={**layout.names, "labels": ["no", "yes"]})
    recorder = Recorder(tmp_path / "run")
    write_attributions(recorder, subject(layout=named), batch, [0], place=[0])
    about = Run(recorder.folder).array("attribution-000-00").about
    assert about["decision"] == f"output at place 0: {words}"


def test_what_is_fed_back_has_the_names_of_the_labels_before(tmp_path: Path) -> None:
    batch = {
        **one(),
        "ids": torch.tensor([[2, 0, 1, 1]]),
        "labels": torch.tensor([[0, 1, 1, -100]]),
    }
    layout = subject().layout
    assert layout is not None
    named = replace(layout, names={"labels": ["no", "yes"]})
    entries = []
    for name, fed in (("as taught", batch), ("other", {**batch, "labels": 1 - batch["labels"]})):
        recorder = Recorder(tmp_path / name)
        write_attributions(recorder, subject(layout=named), fed, [0], place=[0])
        entries.append(Run(recorder.folder).array("attribution-000-00").labels["entry"])
    assert entries[0] == ["(start)", "no", "yes"]
    assert "(start)" not in entries[1]


def test_the_record_names_entries_and_leaves_padding_out(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    assert (
        len(write_attributions(recorder, subject(), BATCH, [0])) == 2
    )  # the first that are scored
    array = Run(tmp_path / "run").array("attribution-001-00")
    assert list(array.labels["entry"]) == ["one", "two", "minus"]
    assert array.values.tolist() == pytest.approx([0, 2, 0])
    assert array.about["decision"] == "output at place 1: choice 0"
    with pytest.raises(ExperimentError, match=r"`Subject\.predict`, which is not given"):
        write_attributions(recorder, subject(predict=None), BATCH, [0])
