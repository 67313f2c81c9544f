"""Learned blocks: gradients of virtual choices against finite steps, exchanges against the best of all, state."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import autosample
from autosample import convert_, harden_
from autosample.nn import SummaryConv1d, SummaryConv2d, SummaryLinear
from autosample.sampling.moves import exchanges
from autosample.training.moving import begin_step, end_backward

LEARNED = {"assignment": "learned", "every": 4, "moves": 0.5}


def blocks(layer) -> torch.Tensor:
    return layer.offsets.followed()[:, 0]


@pytest.mark.parametrize("kind", ["conv", "grouped", "linear", "overlapping"])
def test_gradients_say_what_other_signs_would_change(kind):
    """Against the loss itself: with one filter's window signs scaled by `1 + ε`, one after the other."""
    torch.manual_seed(0)
    layer, x = {
        "conv": lambda: (SummaryConv2d(8, 12, 3, spec="folded", ratio=4, options=LEARNED), torch.randn(2, 8, 5, 5)),
        "grouped": lambda: (SummaryConv2d(8, 12, 3, groups=2, spec="folded", ratio=2, options=LEARNED),
                            torch.randn(2, 8, 5, 5)),
        "linear": lambda: (SummaryLinear(10, 12, spec="folded", ratio=4, options=LEARNED), torch.randn(3, 10)),
        "overlapping": lambda: (SummaryConv1d(8, 12, 16, spec="folded", ratio=8, options={**LEARNED, "overlap": 4}),
                                torch.randn(2, 8, 20)),
    }[kind]()  # fmt: skip
    layer.double(), layer.offsets.moves.double()
    x = x.double()
    begin_step(layer, 3, [])
    layer(x).square().sum().backward()
    end_backward(layer)
    found, weight = layer.offsets.moves.gradient, layer.weight.detach()
    g = layer.geometry
    for n, group in itertools.product(range(0, 12, 5), range(g.windows)):
        losses = []
        for scale in (1 - 1e-5, 1 + 1e-5):
            changed = weight.clone()
            changed[n, group * g.columns : (group + 1) * g.columns] *= scale
            out = torch.func.functional_call(dense(layer), {"weight": changed, "bias": layer.bias}, (x,))
            losses.append(out.square().sum().item())
        sign = layer.folds.signs(torch.float64)[n, group]
        assert float(found[n, group] * sign) == pytest.approx((losses[1] - losses[0]) / 2e-5, rel=1e-5, abs=1e-6)


def dense(layer) -> nn.Module:
    return autosample.densify(layer)


@pytest.mark.parametrize("seed", range(20))
def test_exchanges_promise_the_most_and_keep_sizes(seed):
    draw = np.random.default_rng(seed)
    items, count = 7, 3
    of_item, gain = draw.integers(0, count, items), draw.normal(size=(items, count))
    gain[range(items), of_item] = 0
    pairs = exchanges(gain, of_item, 1)
    values = {(n, m): gain[n, of_item[m]] + gain[m, of_item[n]] - (gain[n].max() + gain[m].max()) / 2
              for n, m in itertools.combinations(range(items), 2)
              if gain[n, of_item[m]] > 0 and gain[m, of_item[n]] > 0}  # fmt: skip
    values = {pair: value for pair, value in values.items() if value > 0.05 * max(values.values())}
    if not values:
        assert len(pairs) == 0
        return
    assert values[tuple(sorted(pairs[0]))] == pytest.approx(max(values.values()))
    many = exchanges(gain, of_item, items)
    assert len(set(many.reshape(-1).tolist())) == 2 * len(many)
    assert all(tuple(sorted(pair)) in values for pair in many.tolist())


def train(model: nn.Module, steps: int, optimizer: torch.optim.Optimizer, start: int = 0) -> list[torch.Tensor]:
    seen = []
    for step in range(start, start + steps):
        begin_step(model, step, [optimizer])
        torch.manual_seed(step)
        x = torch.randn(16, 16)
        optimizer.zero_grad()
        (model(x) - x.roll(1, 1)[:, :12]).square().mean().backward()
        end_backward(model)
        optimizer.step()
        seen.append(blocks(model[0]).clone())
    return seen


def net(**options) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 12))
    convert_(model, "folded", ratio=4, share="even", include=["re:.*"], options={**LEARNED, **options})
    return model


def test_filters_move_by_exchanges_every_few_steps_and_forget():
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    seen = train(model, 8, optimizer)
    assert torch.equal(seen[0], model[0].folds.block())
    assert torch.equal(seen[3], seen[0])
    assert not torch.equal(seen[4], seen[0])
    assert torch.equal(seen[7], seen[4])
    assert torch.equal(seen[4].bincount(), seen[0].bincount())
    before = blocks(model[0]).clone()
    begin_step(model, 8, [optimizer])
    moved = blocks(model[0]) != before
    assert 0 < int(moved.sum()) <= 12
    state = optimizer.state[model[0].summary]["exp_avg"]
    assert torch.equal((state == 0).all(1), moved)  # every filter has one row of its own


def test_filters_find_the_blocks_that_explain_the_outputs():
    torch.manual_seed(0)
    layer = SummaryLinear(16, 16, bias=False, spec="folded", ratio=4, options={**LEARNED, "moves": 0.25})
    twin = copy.deepcopy(layer)
    right = layer.folds.block()[torch.randperm(16)]
    twin.offsets.select({"assignment": right})
    x = torch.randn(1000, 16)
    y, wrong = twin(x).detach(), []
    for step in range(0, 40, 4):  # numbers stay, blocks move
        begin_step(layer, step, [])
        wrong.append(int((blocks(layer) != right).sum()))
        if not wrong[-1]:
            break
        begin_step(layer, step + 3, [])
        (layer(x) - y).square().mean().backward()
        end_backward(layer)
    assert wrong[0] > 6
    assert wrong == sorted(wrong, reverse=True)
    assert wrong[-1] == 0


@pytest.mark.parametrize("stop", [3, 4, 6])
def test_going_on_from_any_step_is_bit_equal(stop):
    straight = net()
    train(straight, 10, torch.optim.Adam(straight.parameters(), lr=1e-2))
    first = net()
    optimizer = torch.optim.Adam(first.parameters(), lr=1e-2)
    train(first, stop, optimizer)
    again = net()
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    other = torch.optim.Adam(again.parameters(), lr=1e-2)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(again, 10 - stop, other, stop)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, straight.state_dict()[name]), name


def test_frozen_and_hardened_layers_stay(tmp_path):
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    train(model, 6, optimizer)
    x = torch.randn(3, 16)
    model.eval()
    expected, chosen = model(x), blocks(model[0]).clone()
    assert not torch.equal(chosen, model[0].folds.block())
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    model.train()
    for layer in (model[0], model[2]):
        layer.freeze_()
    train(model, 4, optimizer, 6)
    assert torch.equal(blocks(model[0]), chosen)
    for twin in copies:
        assert torch.equal(twin(x), expected)
        hard = harden_(twin)
        assert hard[0].offsets.moves is None
        assert torch.equal(hard(x), expected)
        fresh = net()
        for name, layer in (("0", fresh[0]), ("2", fresh[2])):
            stored = dict(getattr(hard, name).stored())
            assert stored["offsets.assignment"].numel() == len(blocks(layer)) * 2 // 8
            layer.restore_(stored)
            for key in ("summary", "bias"):
                getattr(layer, key).data.copy_(stored[key])
        assert torch.equal(fresh.eval()(x), expected)


def test_averages_take_the_frozen_blocks():
    model = net()
    average = copy.deepcopy(model).eval()
    train(model, 6, torch.optim.Adam(model.parameters(), lr=1e-2))
    for layer in (model[0], model[2]):
        layer.freeze_()
    for mine, theirs in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(mine | theirs if mine.dtype == torch.bool else 0.9 * mine + 0.1 * theirs)
    for mine, theirs in zip(average.parameters(), model.parameters(), strict=True):
        mine.data.copy_(theirs)
    x = torch.randn(3, 16)
    assert torch.equal(average.eval()(x), model.eval()(x))
    assert torch.equal(harden_(average)(x), model(x))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch 2.15 looks at it
@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
def test_compiled_layers_move_the_same_filters(whole):
    """Layers of their own and whole nets; a graph is compiled anew only when watching begins or ends."""
    torch._dynamo.reset()
    plain, compiled = net(), net()
    for module in [compiled] if whole else [compiled[0], compiled[2]]:
        module.compile(fullgraph=True, backend="aot_eager")
    seen = []
    with torch._dynamo.config.patch(recompile_limit=3, fail_on_recompile_limit_hit=True):
        for model in (plain, compiled):
            seen.append(train(model, 9, torch.optim.Adam(model.parameters(), lr=1e-2)))
    assert len({tuple(chosen.tolist()) for chosen in seen[0]}) == 3
    for mine, theirs in zip(*seen, strict=True):
        assert torch.equal(mine, theirs)
