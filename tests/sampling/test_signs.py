"""Learned signs of folds, and a second fold with a learned share: against the definition, in training, in files."""

import copy

import pytest
import torch
from scipy.linalg import hadamard
from torch import nn

import autosample
from autosample.coding.fixed import at_steps
from autosample.errors import SpecError
from autosample.nn import SummaryConv1d, SummaryConv2d, SummaryLinear
from autosample.nn.folding import _modules, layer_folds
from autosample.nn.planning import layer_frame
from autosample.nn.stored import compact_state
from autosample.reuse.after import After
from autosample.training import parameter_groups

SIGNS, SECOND = {"signs": "learned"}, {"mixing": "two"}
BOTH = {**SIGNS, **SECOND}
LAYERS = {
    "grouped": (SummaryConv1d, (12, 16, 3), {"groups": 2, "padding": 1}, 4, (2, 12, 9)),
    "uneven": (SummaryConv2d, (7, 10, 3), {"stride": 2, "padding": 1, "padding_mode": "reflect"}, 3, (2, 7, 6, 5)),
    "overlapping": (SummaryConv1d, (8, 12, 16), {"bias": False}, 16, (2, 8, 40)),
    "linear": (SummaryLinear, (24, 16), {}, 4, (2, 3, 24)),
}


def drift(layer, seed: int = 0) -> None:
    """The signs of a layer as after some training."""
    draw, signs = torch.Generator().manual_seed(seed), layer.offsets.signs
    with torch.no_grad():
        for numbers in (signs.leaning, signs.share):
            if numbers is not None:
                numbers.copy_(torch.randn(numbers.shape, generator=draw))


def matrix_of(layer) -> torch.Tensor:
    """`M` from the definition."""
    signs, g = layer.offsets.signs, layer.geometry
    rows = torch.from_numpy(hadamard(1 << (g.windows - 1).bit_length())).double()[:, : g.windows]
    own = rows[: layer.folds.blocks] if signs.leaning is None else torch.where(signs.leaning.double() >= 0, 1.0, -1.0)
    if signs.share is None:
        return own
    return own + at_steps(signs.share.detach().double())[:, None] * rows.roll(-1, 0)[: layer.folds.blocks]


def weight_of(layer) -> torch.Tensor:
    """The weight, number by number."""
    g, phi, matrix = layer.geometry, layer.summary.detach().double(), matrix_of(layer)
    filters, places = g.filters // getattr(layer, "groups", 1), (layer.geometry.length - g.taps) // g.grid + 1
    weight = torch.empty(g.filters, g.channels, g.taps, dtype=torch.float64)
    for n in range(g.filters):
        first, block = n % places * g.grid, n % filters * layer.folds.blocks // filters
        for m in range(g.channels):
            weight[n, m] = matrix[block, m // g.columns] * phi[first : first + g.taps, m % g.columns]
    return weight.view(layer.shape)


@pytest.mark.parametrize("options", [SIGNS, SECOND, BOTH], ids=["signs", "second", "both"])
@pytest.mark.parametrize("kind", LAYERS)
def test_weight_outputs_and_plans_are_those_of_the_definition(kind, options):
    face, args, more, ratio, shape = LAYERS[kind]
    torch.manual_seed(0)
    layer = face(*args, **more, spec="folded", ratio=ratio, options=options).double()
    drift(layer)
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(layer.weight.detach(), weight_of(layer))
    twin = face.dense_class(*args, **more).double()
    twin.load_state_dict({**{k: v for k, v in layer.state_dict().items() if k == "bias"}, "weight": weight_of(layer)})
    expected = twin(x)
    torch.testing.assert_close(layer(x), expected)
    hard = autosample.harden_(copy.deepcopy(layer))
    torch.testing.assert_close(hard(x), expected)
    frame, pad = (None, None) if kind == "linear" else layer_frame(hard)
    after = After(None, hard.bias)
    for module in _modules(hard, layer_folds(hard), frame, pad, after, fuse=False).values():
        torch.testing.assert_close(module(x), expected)
    fast = autosample.deploy(layer.float(), x.float(), measure=False)
    assert fast.deployment.rows[0].plan.kind != "folded fused"
    torch.testing.assert_close(fast(x.float()).double(), expected, rtol=1e-4, atol=1e-4)


def test_signs_get_the_gradient_of_the_matrix():
    layer = SummaryLinear(24, 16, spec="folded", ratio=4, options=BOTH).double()
    drift(layer)
    x, push = torch.randn(5, 24, dtype=torch.float64), torch.randn(5, 16, dtype=torch.float64)
    layer(x).backward(push)
    g, matrix = layer.geometry, matrix_of(layer).requires_grad_()
    blocks = torch.arange(16) * layer.folds.blocks // 16
    weight = (matrix[blocks][:, :, None] * layer.summary.detach()[:, None]).flatten(1)[:, : g.channels]
    (x @ weight.t()).backward(push)
    torch.testing.assert_close(layer.offsets.signs.leaning.grad.double(), matrix.grad)
    rows = torch.from_numpy(hadamard(matrix.shape[1])).double().roll(-1, 0)[: len(matrix)]
    torch.testing.assert_close(layer.offsets.signs.share.grad.double(), (matrix.grad * rows).sum(1))


def net(**options) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 12))
    autosample.convert_(model, "folded", ratio=4, share="even", options={**BOTH, "rate": 0.3, **options})
    return model


def train(model, optimizer, start: int, stop: int) -> None:
    for step in range(start, stop):
        for layer in autosample.nn.compressed_layers(model).values():
            layer.advance_(step / 10)
        torch.manual_seed(step)
        x = torch.randn(16, 16)
        optimizer.zero_grad()
        (model(x) - x.roll(1, 1)[:, :12]).square().mean().backward()
        optimizer.step()


def optimizer_of(model) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameter_groups(model, 1e-2, 0.05))


def test_signs_flip_until_they_are_frozen_and_a_training_resumes_with_the_same_bits():
    model = net(freeze_at=0.6)
    optimizer, start = optimizer_of(model), model[0].offsets.matrix(torch.float32)
    train(model, optimizer, 0, 5)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, 5, 7)
    assert model[0].offsets.is_frozen
    present, share = model[0].learned_offsets().clone(), model[0].offsets.signs.share.detach().clone()
    assert 0 < int((present * 2 - 1 != start.sign()).sum()) < present.numel()
    train(model, optimizer, 7, 10)
    assert torch.equal(model[0].learned_offsets(), present)
    assert not torch.equal(model[0].offsets.signs.share, share)  # shares go on learning
    again = net(freeze_at=0.6)
    other = optimizer_of(again)
    again.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    train(again, other, 5, 10)
    for mine, theirs in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_an_average_of_models_notices_the_freeze():
    model = net()
    average = copy.deepcopy(model)
    drift(model[0])
    model[0].freeze_()
    average.load_state_dict(model.state_dict())
    assert average[0].offsets.is_frozen
    average = copy.deepcopy(net())
    for mine, theirs in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        mine.copy_(theirs)
    average.eval()
    assert torch.equal(average[0].weight, model[0].weight)


@pytest.mark.parametrize("options", [SIGNS, {**BOTH, "assignment": "energy"}], ids=["signs", "all"])
def test_it_is_saved_at_the_bits_that_are_reported_and_loads_equal(options, tmp_path):
    def made():
        return nn.Sequential(nn.Conv2d(8, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 16))

    torch.manual_seed(0)
    model, x = made().eval(), torch.randn(2, 8, 6, 6)
    autosample.convert_(model, "folded", ratio=6, options=options, warm_start=True)
    for layer in autosample.nn.compressed_layers(model).values():
        drift(layer)
    told, before = autosample.report(model), model(x)
    autosample.save(model, tmp_path, factory=made)
    loaded = autosample.load(tmp_path, factory=made)
    assert torch.equal(loaded(x), autosample.harden_(model)(x))
    torch.testing.assert_close(loaded(x), before)
    state = compact_state(loaded)
    assert told.stored_bytes == autosample.report(loaded).stored_bytes == sum(t.nbytes for t in state.values())
    for name, layer in autosample.nn.compressed_layers(loaded).items():
        f = layer.folds
        width = (f.blocks - 1).bit_length() if "assignment" in options else 0
        second = 16 * f.blocks if "mixing" in options else 0
        assert layer.facts().position_bits == f.blocks * f.windows + second + width * f.filters
        assert state[f"{name}.offsets.signs"].nbytes == -(-f.blocks * f.windows // 8)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "pt2"])
@pytest.mark.parametrize("options", [SIGNS, BOTH], ids=["signs", "both"])
def test_exported_models_compute_the_same_from_what_is_stored(options, form, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 16)).eval()
    autosample.convert_(model, "folded", ratio=6, options=options)
    for layer in autosample.nn.compressed_layers(model).values():
        drift(layer)
    write = autosample.export_onnx if form == "onnx" else autosample.export_pt2
    done = write(model, tmp_path / f"model.{form}", torch.randn(1, 8, 6, 6))
    assert done.error < 1e-5
    assert set(done.forms.values()) == {"direct", "signed"}


def test_a_warm_start_begins_with_the_usual_signs():
    dense, x = nn.Linear(24, 16), torch.randn(4, 24)
    folded, layer = copy.deepcopy(dense), copy.deepcopy(dense)
    autosample.convert_(folded, "folded", ratio=4, warm_start=True)
    autosample.convert_(layer, "folded", ratio=4, warm_start=True, options=BOTH)
    torch.testing.assert_close(layer(x), folded(x))
    for change in (drift, lambda layer: autosample.harden_(layer)):
        change(layer)
        layer.fit_(dense.weight)
        torch.testing.assert_close(layer(x), folded(x))


def test_filters_do_not_move_between_signs_that_are_learned():
    with pytest.raises(SpecError, match="filters move between fixed signs, got assignment learned with signs learned"):
        autosample.spec("folded", options={"assignment": "learned", "signs": "learned"})
