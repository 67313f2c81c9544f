"""What cannot be trained sharded is refused in one line; and into which parts nets are cut."""

from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import StochasticWeightAveraging
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy

from autosample.errors import ConfigError
from autosample.models import create
from autosample.training import ClusterPenalty, FakeQuantize, sharding
from autosample.training.sharding import blocks, check_sharding


def stochastic():
    return StochasticWeightAveraging(1e-3)


#: what is refused: settings of the classifier, callbacks of the trainer, what the message says was given
REFUSED = {
    "nes": ({"spec": "nes"}, (), "the rule indexed"),
    "conditioned": ({"spec": "conditioned"}, (), "the rule conditioned"),
    "sum-product": ({"spec": "strassen"}, (), "the rule strassen"),
    "blocks": ({"spec": "folded", "spec_args": {"options": {"assignment": "learned"}}}, (), "the rule folded"),
    "two folds": ({"spec": "folded", "spec_args": {"options": {"mixing": "two"}}}, (), "the rule folded"),
    "signs of two": (
        {"spec": "folded", "spec_args": {"options": {"signs": "learned", "mixing": "two"}}},
        (),
        "the rule folded",
    ),
    "levels": ({"spec": "folded"}, (FakeQuantize,), "FakeQuantize"),
    "mean": ({"spec": "folded"}, (stochastic,), "StochasticWeightAveraging"),
    "penalty": ({"spec": "dense"}, (ClusterPenalty,), "ClusterPenalty"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_needs_numbers_between_steps_is_refused(classifier, trainer, kind):
    settings, callbacks, told = REFUSED[kind]
    loop = trainer(devices=2, strategy="sharded", callbacks=[make() for make in callbacks])
    model = classifier(**settings)
    with pytest.raises(ConfigError, match=rf"between steps, got {told}.*: use --trainer.strategy ddp$"):
        check_sharding(loop, model.net)


def test_without_parameters_that_stay_whole_learned_rules_are_refused(classifier, trainer, monkeypatch):
    monkeypatch.setattr(sharding, "_CAN_KEEP", False)  # torch 2.6
    with pytest.raises(ConfigError, match="between steps, got the rule interpol"):
        check_sharding(trainer(devices=2, strategy="sharded"), classifier(spec="dfsnet").net)


class Fsdp(FSDPStrategy):
    """Lightning refuses its own class on a CPU."""


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        (Fsdp(), {}, r"of their own, got Fsdp: use --trainer.strategy sharded$"),
        (ModelParallelStrategy(), {}, r"their own, got ModelParallelStrategy: use --trainer.strategy sharded$"),
        ("sharded", {"sync_batchnorm": True}, r"got sync_batchnorm: leave it out, or use --trainer.strategy ddp$"),
        ("sharded", {"precision": "64-true"}, r"32-true, .*, got precision 64-true: .* use --trainer.strategy ddp$"),
    ],
)
def test_other_settings_of_strategies_are_refused(classifier, trainer, strategy, options, message):
    model = classifier(spec="folded")
    with pytest.raises(ConfigError, match=message):
        check_sharding(trainer(devices=2, strategy=strategy, **options), model.net)


def test_a_single_number_cannot_be_cut(classifier, trainer):
    model = classifier(spec="folded")
    model.net.scale = torch.nn.Parameter(torch.ones(()))
    with pytest.raises(ConfigError, match='got "scale", a single number'):
        check_sharding(trainer(devices=2, strategy="sharded"), model.net)


def test_blocks_are_modules_in_rows_that_share_nothing():
    net: Any = create("test_resnet", num_classes=10)
    names = {id(module): name for name, module in net.named_modules()}

    def found():
        return [name for block in blocks(net) if not (name := names[id(block)]).startswith("conv1")]

    assert found() == ["layer1.0", "layer2.0", "layer3.0", "layer4.0"]
    net.layer3[0].conv1.weight = net.layer4[0].conv1.weight
    assert found() == ["layer1.0", "layer2.0"]
    net.layer5 = net.layer1
    assert found() == ["layer2.0"]
