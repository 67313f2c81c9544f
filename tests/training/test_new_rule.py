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
from autosample.nn import compressed_layers
from autosample.sampling import RULES, LearnedOffsets, Offsets, Placement

INPUTS = {"mlp784": (1, 28, 28), "m5": (1, 8000), "test_resnet": (3, 64, 64)}
ADDING = Path(__file__).parents[2] / "docs" / "adding.md"


@pytest.fixture
def rules(monkeypatch):
    """The rule that the documents show, and one that learns, in the table for the length of a test."""
    code = re.search(r"## Adding an offset rule.*?```python\n(.*?)```", ADDING.read_text(), re.S)
    assert code
    monkeypatch.setitem(RULES, "golden", Offsets)  # so that the row is gone after the test
    monkeypatch.setitem(RULES, "swap", SwapOffsets)
    exec(code[1], {"__name__": "example"})
    assert RULES["golden"] is not Offsets


class SwapOffsets(LearnedOffsets):
    """Between its start and the offset above, as a learned score prefers; remembers how it was annealed."""

    def __init__(self, lattice, options=None, **rest):
        super().__init__(lattice, options, **rest)
        self.score = nn.Parameter(torch.zeros(lattice.filters, lattice.windows, device=rest.get("device")))
        self.seen = []

    def anneal(self, progress):
        self.seen.append(progress)

    def hard_offsets(self):
        upper = (self.table + self.lattice.grid).clamp(max=self.lattice.last)
        return torch.where(self.score > 0, upper, self.table).long()

    def soft_placement(self):
        upper = torch.sigmoid(self.score)
        base = self.table.long().clamp(max=self.lattice.last - self.lattice.grid)
        return Placement(base, torch.stack([1 - upper, upper], -1), self.lattice.grid)


@pytest.mark.parametrize("rule", ["golden", "swap"])
@pytest.mark.parametrize("net", ["mlp784", "m5", "test_resnet"])  # linear layers, 1-D, and 2-D with pointwise ones
def test_it_is_converted_saved_and_deployed(rules, tmp_path, rule, net):
    model, x = timm.create_model(net, num_classes=10).eval(), torch.randn(2, *INPUTS[net])
    options = {"start": "random"} if rule == "swap" else {}
    assert autosample.convert_(model, Spec(rule=rule, ratio=4, options=options)).converted
    model(x).square().sum().backward()
    for layer in compressed_layers(model).values():
        assert layer.summary.grad is not None
        assert (rule == "swap") == any(p.grad is not None for p in layer.offsets.parameters())
    autosample.harden_(model)
    expected = model(x)
    autosample.save(model, tmp_path)
    torch.testing.assert_close(autosample.load(tmp_path)(x), expected)
    torch.testing.assert_close(autosample.deploy(model, x, measure=False)(x), expected, rtol=1e-4, atol=1e-4)


def test_it_is_trained_annealed_and_frozen(rules, classifier, digits, trainer):
    model = classifier(spec="swap", spec_args={"options": {"freeze_at": 0.5}})
    trainer(max_epochs=2, limit_train_batches=4).fit(model, datamodule=digits())
    for layer in compressed_layers(model).values():
        assert layer.offsets.seen == pytest.approx([0.0, 0.25, 0.5, 0.75])
        assert layer.offsets.is_frozen
        assert bool((layer.offsets.score != 0).any())
