"""A rule of somebody else's works everywhere: a class and a row in the table are all it takes."""

import re
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import autosample
import autosample.models
from autosample import Spec
from autosample.model.convert import summary_layers
from autosample.sampling import OFFSET_RULES, LearnedOffsets, Offsets, Placement
from autosample.sampling.rules.base import start_positions

INPUTS = {"mlp784": (1, 28, 28), "m5": (1, 8000), "test_resnet": (3, 64, 64)}
README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def rules(monkeypatch):
    """The rule that the README shows, and one that learns, in the table for the length of a test."""
    code = re.search(r"## Adding an offset rule.*?```python\n(.*?)```", README.read_text(), re.S)
    assert code
    monkeypatch.setitem(OFFSET_RULES, "golden", Offsets)  # so that the row is gone after the test
    monkeypatch.setitem(OFFSET_RULES, "swap", SwapOffsets)
    exec(code[1], {"__name__": "example"})
    assert OFFSET_RULES["golden"] is not Offsets


class SwapOffsets(LearnedOffsets):
    """Between its start and the position above, whichever a learned score prefers; remembers how it was annealed."""

    def __init__(self, places, spec, *, name="", device=None):
        super().__init__(places, start_positions(places, spec, name, device))
        self.score = nn.Parameter(torch.zeros(places.filters, places.groups, device=device))
        self.seen = []

    def anneal(self, progress):
        self.seen.append(progress)

    def hard_positions(self):
        upper = (self.table + self.places.grid).clamp(max=self.places.last)
        return torch.where(self.score > 0, upper, self.table).long()

    def soft_placement(self):
        upper = torch.sigmoid(self.score)
        base = self.table.long().clamp(max=self.places.last - self.places.grid)
        return Placement(base, torch.stack([1 - upper, upper], -1), self.places.grid)


@pytest.mark.parametrize("rule", ["golden", "swap"])
@pytest.mark.parametrize("net", ["mlp784", "m5", "test_resnet"])  # linear layers, 1-D, and 2-D with pointwise ones
def test_it_is_converted_saved_and_deployed(rules, tmp_path, rule, net):
    model, x = timm.create_model(net, num_classes=10).eval(), torch.randn(2, *INPUTS[net])
    assert autosample.convert_(model, Spec(rule=rule, ratio=4, start="random")).converted
    model(x).square().sum().backward()
    for layer in summary_layers(model).values():
        assert layer.summary.grad is not None
        assert (rule == "swap") == any(p.grad is not None for p in layer.offsets.parameters())
    autosample.harden_(model)
    expected = model(x)
    autosample.save(model, tmp_path)
    torch.testing.assert_close(autosample.load(tmp_path)(x), expected)
    torch.testing.assert_close(autosample.deploy(model, x, measure=False)(x), expected, rtol=1e-4, atol=1e-4)


def test_it_is_trained_annealed_and_frozen(rules, classifier, digits, trainer):
    model = classifier(summary="random", summary_args={"rule": "swap", "freeze_at": 0.5})
    trainer(max_epochs=2, limit_train_batches=4).fit(model, datamodule=digits())
    for layer in summary_layers(model).values():
        assert layer.offsets.seen == pytest.approx([0.0, 0.25, 0.5, 0.75])
        assert layer.offsets.is_frozen
        assert bool((layer.offsets.score != 0).any())
