"""Rivals at equal bytes: dense nets trained with levels, low rank, pruning."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autosample import deploy, report
from autosample.budget.sizes import stored_bytes
from autosample.data import DATASETS, ClassificationData
from autosample.data.splits import Examples
from autosample.errors import ConfigError, MissingExtra
from autosample.experiments import run
from autosample.experiments.ablate import inline_runner, run_grid
from autosample.experiments.resolve import resolve
from autosample.experiments.rivals import RIVALS
from autosample.experiments.rivals.low_rank import factorised
from autosample.model.quantize import quantize_
from autosample.models import create
from autosample.nn import compressed_layers

SIZES = {"ratios": None, "seeds": 1}
TAUGHT = {"epochs": 2, "teacher_epochs": 2}
NETS = {
    "test_resnet": ((1, 16, 16), {}),
    "mlp784": ((1, 28, 28), {"include": ["stages.0.fc", "head.fc"]}),
    "wave4": ((1, 8000), {}),
}


class Stripes(ClassificationData):
    """Stripes, 8×8 pixels: the class is their direction."""

    @property
    def class_names(self):
        return ("across", "down")

    @property
    def input_shape(self):
        return (1, 8, 8)

    def _load(self):
        across = torch.rand(96, 1, 8, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 8, 8)
        x, y = torch.cat([across, across.mT]), torch.arange(2).repeat_interleave(96)
        rows = torch.arange(192)
        return Examples(x, y, train=rows[rows % 3 > 0], test=rows[rows % 3 == 0])


@pytest.fixture
def stripes(grid, monkeypatch):
    """A grid of one seed, with data that are read and learned at once."""
    monkeypatch.setitem(DATASETS, "Stripes", Stripes)
    small = {
        "data": {"class": "Stripes", "batch_size": 16},
        "model": {"name": "digitnet", "num_classes": 2, "in_chans": 1},
        "train": {"epochs": 2, "lr": 4e-3},
        "ratios": None,
        "seeds": 1,
    }
    return lambda **changes: grid(**{**small, **changes})


@pytest.fixture
def console():
    from rich.console import Console

    return Console(quiet=True)


# --- low rank -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(12, 10), (12,)),
        (nn.Conv1d(4, 10, 5, stride=2, padding=2, bias=False), (4, 19)),
        (nn.Conv2d(6, 8, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2), padding_mode="circular"), (6, 9, 11)),
        (nn.Conv2d(8, 12, 3, groups=2), (8, 7, 7)),
        (nn.Conv3d(3, 8, 2), (3, 4, 4, 4)),
    ],
)
def test_two_layers_compute_what_the_truncated_weight_does(layer, shape):
    rank, x = 2, torch.randn(2, *shape).double()
    pair, dense = factorised(layer, rank), layer.double()
    assert pair is not None
    groups = getattr(layer, "groups", 1)
    cut = []
    for part in dense.weight.detach().chunk(groups):
        u, s, v = torch.linalg.svd(part.flatten(1), full_matrices=False)
        cut.append((u[:, :rank] @ torch.diag(s[:rank]) @ v[:rank]).view_as(part))
    dense.weight.data = torch.cat(cut)
    torch.testing.assert_close(pair.double()(x), dense(x), rtol=1e-5, atol=1e-5)
    # the composed weight, made from the two weights alone
    first, second = (part.weight.detach() for part in pair)
    each = [b.flatten(1) @ a.flatten(1) for a, b in zip(first.chunk(groups), second.chunk(groups), strict=True)]
    torch.testing.assert_close(torch.cat(each).view_as(dense.weight), dense.weight.data, rtol=1e-5, atol=1e-6)
    if isinstance(layer, nn.Conv1d):
        whole = F.conv1d(x, torch.cat(each).view_as(dense.weight), stride=2, padding=2)
        torch.testing.assert_close(pair(x), whole, rtol=1e-9, atol=1e-9)


def test_a_layer_that_two_would_not_make_smaller_stays_whole():
    assert factorised(nn.Linear(10, 10), 5) is None
    assert factorised(nn.Linear(10, 10), 4) is not None


def test_ranks_follow_the_energy_and_only_chosen_layers_change():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40), nn.Linear(40, 40))
    with torch.no_grad():  # the first is of rank 3, the second has a flat spectrum
        net[0].weight.copy_(torch.randn(40, 3) @ torch.randn(3, 40))
        net[1].weight.copy_(torch.linalg.qr(torch.randn(40, 40))[0])
    x = torch.randn(5, 40)
    first, third = net[0](x), net[2].weight
    patterns = {"exclude": ["2"]}
    ranks = RIVALS["low-rank"].shrink_(net, 11_000, stored_bytes, patterns=patterns, shape=(40,))["ranks"]
    assert ranks["0"] == 3
    assert ranks["1"] > 3
    assert net[2].weight is third
    torch.testing.assert_close(net[0](x), first, rtol=1e-4, atol=1e-4)
    # another rank of the second layer would not have fitted
    assert 11_000 - 4 * 80 < stored_bytes(net) <= 11_000


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "bits"),
    [("test_resnet", 0), pytest.param("test_resnet", 4, marks=pytest.mark.slow), ("mlp784", 0), ("mlp784", 4),
     ("wave4", 0), ("wave4", 4)],
)  # fmt: skip
@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.every(2)
def test_sizes_are_met(rival, model, bits):
    def plain(net):
        return sum(t.nbytes for t in net.state_dict().values())

    if rival == "pruned":
        pytest.importorskip("torch_pruning")
    shape, patterns = NETS[model]
    torch.manual_seed(0)
    net = create(model, num_classes=10, in_chans=shape[0])
    quantize = {"bits": bits, "rest": "fp16", "layers": "all"}
    target, cost = plain(net) / 20, (lambda net: stored_bytes(net, quantize=quantize)) if bits else plain
    RIVALS[rival].shrink_(net, target, cost, patterns=patterns, shape=shape)
    assert net.training
    assert net(torch.randn(2, *shape)).shape == (2, 10)
    assert not compressed_layers(net)
    if bits:
        assert quantize_(net, **quantize).after == pytest.approx(target, rel=0.04)
    else:
        assert plain(net) == pytest.approx(target, rel=0.04)


@pytest.mark.parametrize("rival", RIVALS)
def test_a_size_that_is_not_possible_names_those_that_are(rival):
    if rival == "pruned":
        pytest.importorskip("torch_pruning")
    net = create("digitnet", num_classes=10, in_chans=1)
    dense = stored_bytes(net)
    for target in (dense, 100):
        with pytest.raises(
            ConfigError, match=f"{rival} net must store from [0-9,]* to {dense - 1:,} bytes, got"
        ) as told:
            RIVALS[rival].shrink_(net, target, stored_bytes, patterns={}, shape=(1, 8, 8))
        least = int(str(told.value).split("from ")[1].split(" ")[0].replace(",", ""))
    assert 100 < least < dense / 4
    assert stored_bytes(net) == dense


# --- pruning --------------------------------------------------------------------------------------------------------


def test_pruning_keeps_the_channels_with_the_largest_norm():
    pytest.importorskip("torch_pruning")
    from autosample.experiments.rivals.pruned import prune_

    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    net.get_classifier = lambda: net[2]
    with torch.no_grad():
        net[0].weight[[1, 4, 5]] *= 1e-3
        net[2].weight[:, [1, 4, 5]] *= 1e-3
    kept = [0, 2, 3, 6, 7]
    wanted = [net[0].weight[kept].clone(), net[0].bias[kept].clone(), net[2].weight[:, kept].clone(), net[2].bias]
    prune_(net, 5 / 8, (6,))
    for got, want in zip(net.parameters(), wanted, strict=True):
        assert torch.equal(got, want)


def test_a_net_that_does_not_name_its_classifier_is_refused():
    pytest.importorskip("torch_pruning")
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(ConfigError, match=r"got Sequential .*no get_classifier.*: remove pruned from the presets"):
        RIVALS["pruned"].shrink_(net, 150, stored_bytes, patterns={}, shape=(6,))


def test_one_channel_always_stays():
    pytest.importorskip("torch_pruning")
    from autosample.experiments.rivals.pruned import prune_

    net = create("digitnet", num_classes=10, in_chans=1)
    prune_(net, 1e-6, (1, 8, 8))
    assert [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)] == [1] * 5
    assert net(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_pruning_without_its_package_says_how_to_get_it_before_the_dense_net_trains(grid, monkeypatch):
    monkeypatch.setattr("autosample.system.extras.find_spec", lambda name: None)
    monkeypatch.setattr(run, "dense_weights", lambda *given: pytest.fail("the dense net trains"))
    (cell,) = grid(**SIZES, net_ratios=[6], presets=[{"preset": "pruned", "train": TAUGHT}]).cells
    with pytest.raises(MissingExtra, match=r"torch_pruning: pip install 'autosample\[rivals\]'"):
        run.run_cell(cell)


# --- dense nets that train with their levels ------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "bits"), [("linear", 4), ("codebook", 2), ("per-filter", 2)])
def test_a_dense_net_computes_with_the_levels_that_are_stored(stripes, monkeypatch, method, bits):
    quantize = {"bits": bits, "method": method, "rest": "fp16", "train": True, "start": 0.3}
    small = {"name": "digitnet", "num_classes": 2, "in_chans": 1, "args": {"width": 0.4}}
    (cell,) = stripes(presets=[{"preset": "dense", "quantize": quantize}], model=small).cells
    assert (cell.label, cell.size) == (f"dense {bits} bits", None)
    nets, shown = [], {}

    class Watched(run.Classifier):
        def on_fit_start(self):
            super().on_fit_start()
            nets.append(self.net)

        def on_train_end(self):
            # what the net computes after the last step, before levels are fixed and stored
            self.net.eval()
            shown.update({name: layer.weight.detach().clone() for name, layer in compressed_layers(self.net).items()})

    monkeypatch.setattr(run, "Classifier", Watched)
    record = run.run_cell(cell)
    (net,) = nets
    layers = {name: m for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert len(layers) == 6
    assert layers.keys() == shown.keys()
    for name, layer in layers.items():
        each = layer.weight if method == "per-filter" else layer.weight[None]
        assert max(len(values.unique()) for values in each) <= 2**bits
        assert torch.equal(layer.weight, shown[name])
    # all weights at their bits, levels as float32, and half precision for the rest
    weights = [layer.weight.numel() for layer in layers.values()]
    rest = record.dense_params - sum(weights)
    levels = [{"linear": 2, "codebook": 2**bits, "per-filter": 2 * len(m.weight)}[method] for m in layers.values()]
    counters = 5
    coded = sum(math.ceil(count * bits / 8) for count in weights) + 4 * sum(levels)
    assert record.stored_bytes == coded + 2 * (rest - counters) + 8 * counters
    assert record.accuracy > 0.8


def test_without_train_a_dense_net_is_rounded_after_training(grid):
    def cells(*quantize):
        rows = [{"preset": "narrow", "quantize": each, "label": str(i)} for i, each in enumerate(quantize)]
        return grid(**SIZES, net_ratios=[8], presets=rows).cells

    plain, trained = cells({"bits": 8}, {"bits": 8, "train": True})
    # the old records have this one
    assert plain.identity["quantize"] == {"bits": 8}
    assert trained.identity["quantize"] == {"bits": 8, "train": True}
    assert run._start(plain) is None
    assert run._start(trained) == 0.7
    assert run._start(cells({"train": True, "start": 0.2})[0]) == 0.2
    assert run._start(grid(presets=[{"preset": "random", "quantize": {"start": 0.5}}]).cells[0]) == 0.5
    with pytest.raises(ConfigError, match="are the same run"):
        cells({"bits": 8}, {"bits": 8, "train": False})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"preset": "random", "quantize": {"train": False}}, "train of quantize must be true, or false in dense nets"),
        ({"preset": "narrow", "quantize": {"train": 3}}, "train of quantize must be true, or false in dense nets"),
        (
            {"preset": "narrow", "quantize": {"start": 0.5}},
            "narrow is rounded after training, got start 0.5: add train",
        ),
        ({"preset": "low-rank", "ratio": 3}, "low-rank has no fields to change, got ratio"),
        ({"preset": "low-rank"}, "low-rank needs a trained dense net .* set teacher_epochs in train"),
        ({"preset": "narrow", "train": TAUGHT}, "narrow cannot start from the weights of a wider net"),
        ({"preset": "prunned"}, 'no preset is called "prunned": did you mean "pruned"'),
    ],
)
def test_mistakes(grid, entry, message):
    with pytest.raises(ConfigError, match=message):
        grid(**SIZES, net_ratios=[8], presets=[entry])


@pytest.mark.parametrize("size", [{"ratios": [8]}, {"ratios": None, "latencies": [2]}])
def test_rivals_have_no_ratio_of_layers(grid, size):
    with pytest.raises(ConfigError, match=r"pruned has no (layer ratio|latency to search for), got (ratios|latencies)"):
        grid(presets=[{"preset": "pruned", "train": TAUGHT}], **size)


# --- whole runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rival", RIVALS)
def test_a_grid_with_a_rival_runs_once(stripes, tmp_path, console, rival):
    if rival == "pruned":
        pytest.importorskip("torch_pruning")
    quantize = {"bits": 4, "rest": "fp16", "train": True}
    presets = [{"preset": rival, "train": TAUGHT}, {"preset": rival, "train": TAUGHT, "quantize": quantize}]
    made = stripes(net_ratios=[12], presets=presets)
    records = run_grid(made, tmp_path, inline_runner(), console)
    dense = report(create("digitnet", num_classes=2, in_chans=1), torch.zeros(1, 1, 8, 8))
    assert len(records) == 2
    for cell in made.cells:
        record = records[cell.id]
        assert record.ratio == pytest.approx(12, rel=0.03)
        assert record.dense_bytes == dense.dense_bytes
        assert record.macs < dense.macs
        assert record.settings["teacher_epochs"] == 2
        assert {"ranks", "channels"} & set(record.settings)
        assert record.accuracy > 0.8
    again = run_grid(made, tmp_path, lambda *given: pytest.fail("trained again"), console)
    assert {key: record.accuracy for key, record in again.items()} == {k: r.accuracy for k, r in records.items()}


@pytest.mark.parametrize("rival", RIVALS)
def test_the_net_of_a_rival_deploys(grid, rival):
    if rival == "pruned":
        pytest.importorskip("torch_pruning")
    (cell,) = grid(**SIZES, net_ratios=[6], presets=[{"preset": rival, "train": TAUGHT}]).cells
    resolved, x = resolve(cell, (1, 8, 8)), torch.randn(2, 1, 8, 8)
    net = resolved.net().eval()
    assert stored_bytes(net) == pytest.approx(resolved.dense_bytes / 6, rel=0.02)
    torch.testing.assert_close(deploy(net, x, measure=False, fuse=False)(x), net(x), rtol=1e-3, atol=1e-4)
