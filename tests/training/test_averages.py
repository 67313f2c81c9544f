"""Averages of models (EMA): parameters are averaged, and what is exact stays what the model holds."""

import copy
import re

import pytest
import pytorch_lightning as pl
import timm
import torch
from every_spec import SPECS
from pytorch_lightning.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

import autosample
import autosample.models
from autosample.nn import compressed_layers
from autosample.training import FakeQuantize
from autosample.training.averages import warn_of_long_average

DECAY, STEPS = 0.9, 6

# the average, and how it is updated
KINDS = {
    "timm": (lambda m: timm.utils.ModelEma(m, DECAY), lambda ema, m: ema.update(m)),
    "timm V2": (lambda m: timm.utils.ModelEmaV2(m, DECAY), lambda ema, m: ema.update(m)),
    "timm V3": (lambda m: timm.utils.ModelEmaV3(m, DECAY), lambda ema, m: ema.update(m)),
    "timm V3, foreach": (lambda m: timm.utils.ModelEmaV3(m, DECAY, foreach=True), lambda ema, m: ema.update(m)),
    "torch": (
        lambda m: AveragedModel(m, avg_fn=get_ema_avg_fn(DECAY), use_buffers=True),
        lambda ema, m: ema.update_parameters(m),
    ),
    "torch, multi": (
        lambda m: AveragedModel(m, multi_avg_fn=get_ema_multi_avg_fn(DECAY), use_buffers=True),
        lambda ema, m: ema.update_parameters(m),
    ),
}


def drift(model: nn.Module) -> None:
    """A step of training: every parameter moves."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))


def averaged(first: dict, states: list[dict]) -> dict[str, torch.Tensor]:
    """Floats of the states averaged in float64, everything else of the last state."""
    out = {name: t.double() if t.is_floating_point() else t for name, t in first.items()}
    for state in states:
        for name, t in state.items():
            out[name] = DECAY * out[name] + (1 - DECAY) * t.double() if t.is_floating_point() else t
    return out


# every way to average with one spec, and every spec with the newest of timm and torch
EVERY = [
    pytest.param(name, kind, marks=() if name == "autosample" or kind in ("timm V3", "torch") else pytest.mark.slow)
    for name in SPECS
    for kind in KINDS
]


@pytest.mark.parametrize(("name", "kind"), EVERY)
@pytest.mark.every(2)
def test_an_average_is_the_net_of_averaged_numbers(name, kind):
    torch.manual_seed(0)
    start, update = KINDS[kind]
    model = timm.create_model("digitnet", num_classes=10, norm=False).eval()
    autosample.convert_(model, {**SPECS[name], "ratio": 4})
    if name == "wsnet":
        autosample.quantize_(model, 8)
    ema, first, states = start(model), copy.deepcopy(model.state_dict()), []
    for step in range(STEPS):
        drift(model)
        if step == STEPS // 2:
            for layer in compressed_layers(model).values():
                layer.freeze_()
        update(ema, model)
        if step == 0 and "torch" in kind:  # these start with a copy of the first update
            first = copy.deepcopy(model.state_dict())
        else:
            states.append(copy.deepcopy(model.state_dict()))
    average = getattr(ema, "module", None) or ema.ema
    hard = autosample.harden_(copy.deepcopy(average))  # without a switch of modes before
    expected = copy.deepcopy(model)
    expected.load_state_dict(averaged(first, states))
    x = torch.randn(4, 1, 16, 16)
    torch.testing.assert_close(average.eval()(x), expected.eval()(x), rtol=1e-4, atol=1e-5)
    for layer, right in zip(compressed_layers(average).values(), compressed_layers(model).values(), strict=True):
        if getattr(right, "offsets", None) is not None:
            assert torch.equal(layer.offsets(), right.offsets())
    torch.testing.assert_close(hard(x), expected(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["random", "hashednet", "dfsnet", "autosample", "folded", "wsnet"])
def test_lightning_tests_the_average(spec, classifier, digits, trainer):
    """The net that is tested after training is as good as the trained one, or better."""
    options = {"options": {"afford": 10}} if spec == "autosample" else {}
    data = digits()
    torch.manual_seed(0)
    model = classifier(spec=spec, spec_args=options)
    runner = trainer(max_epochs=3, limit_train_batches=1.0, callbacks=[EMAWeightAveraging(decay=0.9)])
    runner.fit(model, datamodule=data)
    (result,) = runner.test(model, datamodule=data, verbose=False)
    torch.manual_seed(0)
    plain = classifier(spec=spec, spec_args=options)
    runner = trainer(max_epochs=3, limit_train_batches=1.0)
    runner.fit(plain, datamodule=data)
    (alone,) = runner.test(plain, datamodule=data, verbose=False)
    assert result["test/acc"] > max(alone["test/acc"] - 0.03, 0.5)


class Averaging(pl.Callback):
    """An average of timm's or torch's, updated after every step."""

    def __init__(self, kind: str) -> None:
        self.begin, self.update = KINDS[kind]

    def on_train_start(self, trainer, module):
        self.average = self.begin(module.net)

    def on_train_batch_end(self, trainer, module, *_):
        self.update(self.average, module.net)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "bits"), [("folded", 32), ("autosample", 32), ("wsnet", 32), ("folded", 4), ("autosample", 4)]
)
def test_averages_are_as_good_as_the_net_that_they_follow(spec, bits, classifier, digits, trainer):
    """After a training to its end, and hardened: no worse than the noise of 360 test images."""
    torch.manual_seed(0)
    model, data, averages = classifier(spec=spec), digits(), {kind: Averaging(kind) for kind in KINDS}
    levels = [FakeQuantize(bits, start=0)] if bits < 32 else []
    whole = {"max_epochs": 3, "limit_train_batches": 1.0}
    trainer(**whole, callbacks=[*levels, *averages.values()]).fit(model, datamodule=data)
    batches = list(data.test_dataloader())
    nets = {kind: getattr(one.average, "module", None) or one.average.ema for kind, one in averages.items()}
    right = {}
    for kind, net in {"plain": model.net, **nets}.items():
        hard = autosample.harden_(copy.deepcopy(net)).eval()
        with torch.no_grad():
            right[kind] = sum(int((hard(x).argmax(1) == y).sum()) for x, y in batches)
    count = sum(len(y) for _, y in batches)
    assert right["plain"] > 0.9 * count, right
    assert min(right.values()) > right["plain"] - 0.02 * count, right


# averages of Lightning, and whether they come before FakeQuantize in the list
AVERAGES = {"EMA": lambda: EMAWeightAveraging(decay=0.9), "SWA": lambda: StochasticWeightAveraging(1e-3, 0.5)}


@pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch")
@pytest.mark.parametrize(
    ("kind", "levels", "first"),
    [
        pytest.param("EMA", (3, "codebook"), True, marks=pytest.mark.slow),
        ("EMA", (4, "linear"), False),
        ("SWA", (4, "linear"), True),
        pytest.param("SWA", (3, "codebook"), False, marks=pytest.mark.slow),
    ],
)
def test_averages_and_levels(classifier, digits, trainer, tmp_path, kind, levels, first):
    """In any order the net that is left is quantised, close to the average, and what a file of it computes."""
    torch.manual_seed(0)
    model, data = classifier(spec="random", ratio=32, lr=1e-2), digits()
    both = [AVERAGES[kind](), FakeQuantize(*levels, start=0.3)]
    loop = trainer(max_epochs=4, limit_train_batches=10, callbacks=both if first else both[::-1])
    loop.fit(model, datamodule=data)
    for layer in compressed_layers(model).values():
        assert len(layer.summary.unique()) <= 2 ** levels[0]
    model.eval()
    x, _ = next(iter(data.test_dataloader()))
    autosample.save(model.net, tmp_path / "saved")
    torch.testing.assert_close(autosample.load(tmp_path / "saved")(x), model(x))
    (result,) = loop.test(model, datamodule=data, verbose=False)
    assert result["test/acc"] > 0.5


@pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch")
def test_stochastic_weight_averaging_ends_with_the_mean(classifier, digits, trainer):
    """The net is the mean of the nets at the ends of its epochs: here of the third and the fourth."""
    seen = []

    class Keep(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            seen.append({name: p.detach().clone() for name, p in module.named_parameters()})

    model = classifier(spec="random", model_args={"norm": False})
    callbacks = [Keep(), StochasticWeightAveraging(1e-3, swa_epoch_start=2)]
    trainer(max_epochs=4, limit_train_batches=5, callbacks=callbacks).fit(model, datamodule=digits())
    for name, parameter in model.named_parameters():
        expected = torch.stack([epoch[name] for epoch in seen[1:4]]).mean(0)
        torch.testing.assert_close(parameter, expected, msg=name)


@pytest.mark.filterwarnings("default:the average of weights:UserWarning")
@pytest.mark.parametrize(
    ("options", "steps", "kept"),
    [
        ({"decay": 0.9999}, 300, "97 %.* 300 updates.*decay 0.967"),
        ({"decay": 0.9999}, 187_500, None),
        ({"decay": 0.9}, 300, None),
        ({"decay": 0.99, "update_every_n_steps": 10}, 300, "74 %.* 30 updates.*decay 0.667"),
        ({"decay": 0.99, "update_starting_at_step": 299}, 300, "99 %.* 1 updates.*decay 0.5"),
        ({"decay": 0.9999, "update_starting_at_epoch": 1}, 300, None),
    ],
)
def test_a_training_too_short_for_its_average_is_told_so(trainer, recwarn, options, steps, kept):
    warn_of_long_average(trainer(callbacks=[EMAWeightAveraging(**options)]), steps)
    said = [str(one.message) for one in recwarn if "average of weights" in str(one.message)]
    assert len(said) == (kept is not None)
    assert not kept or re.search(kept, said[0]), said
