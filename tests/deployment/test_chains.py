"""Chains of toy models, for every rule.

A toy model is a function of its modules `m` and the input; the modules that are not given are those of `parts`.
"""

from contextlib import nullcontext, suppress

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.utils import parametrize

from autosample import convert_
from autosample.deployment.chains import Chain, find_chains
from autosample.nn import SummaryLayer

FULL, NORM, BARE = Chain("conv", "norm", "relu"), Chain("conv", "norm"), Chain("conv")


class Toy(nn.Module):
    def __init__(self, run, **modules):
        super().__init__()
        self.run = run
        for name, module in (parts() | modules).items():
            self.add_module(name, module)

    def forward(self, *args):
        return self.run(self, *args)


def parts():
    return {"conv": nn.Conv2d(3, 4, 3), "norm": nn.BatchNorm2d(4), "relu": nn.ReLU(), "other": nn.Conv2d(4, 4, 1)}


def image():
    return torch.randn(2, 3, 8, 8)


def chain(run, **modules) -> Chain:
    return find_chains(Toy(run, **modules).eval(), image())["conv"]


def straight(m, x):
    return m.relu(m.norm(m.conv(x)))


def failing_between(m, x):
    y = m.conv(x)
    with suppress(RuntimeError):
        m.other(x)  # too few channels
    return m.relu(m.norm(y))


def garbage(x):
    """`x`, kept alive by a reference cycle that nobody can reach."""
    cycle = [x]
    cycle.append(cycle)
    return x


def described(m, x):
    """What a model may ask of a tensor without reading its numbers."""
    y = m.conv(x)
    sizes = (*y.shape, y.size(0), len(y), y.dim(), y.ndim, y.numel(), y.nelement(), y.stride(-1), y.element_size())
    assert sizes == (2, 4, 6, 6, 2, 2, 4, 4, 288, 288, 1, 4)
    assert (y.dtype, y.device.type, y.layout) == (m.conv.weight.dtype, "cpu", torch.strided)
    assert (y.is_contiguous(), y.is_floating_point(), y.requires_grad, y.is_cuda) == (True, True, False, False)
    return m.relu(m.norm(y))


RUNS = {
    "straight": (straight, FULL),
    "metadata": (described, FULL),
    "error caught": (failing_between, FULL),
    "garbage": (lambda m, x: m.relu(m.norm(garbage(m.conv(x)))), FULL),
    "result decides": (lambda m, x: y if (y := straight(m, x)).sum() > 0 else -y, FULL),
    "result used twice": (lambda m, x: {"out": [y := straight(m, x)], "more": m.other(y) + y}, FULL),
    "residual of the layer": (lambda m, x: (y := m.conv(x)) + m.relu(m.norm(y)), BARE),
    "residual of the norm": (lambda m, x: (y := m.norm(m.conv(x))) + m.relu(y), NORM),
    "layer returned": (lambda m, x: (m.relu(m.norm(y := m.conv(x))), {"y": [y]}), BARE),
    "norm returned": (lambda m, x: (m.relu(y := m.norm(m.conv(x))), y), NORM),
    "kept by the model": (lambda m, x: m.relu(m.norm(m.__dict__.setdefault("kept", m.conv(x)))), BARE),
    "view used": (lambda m, x: (y := m.conv(x)).flatten(1).sum() + m.relu(m.norm(y)), BARE),
    "view kept": (lambda m, x: (m.norm(y := m.conv(x)), y[0]), BARE),
    "detached, listed, added": (lambda m, x: (k := [], k.append((y := m.conv(x)).detach()), m.norm(y) + k[0])[2], BARE),
    "in a list": (lambda m, x: torch.cat([m.norm(y := m.conv(x)), y]), BARE),
    "by keyword": (lambda m, x: m.norm(y := m.conv(x)) + torch.relu(input=y), BARE),
    "read as numbers": (lambda m, x: m.norm(y := m.conv(x)) + torch.tensor(y.tolist()), BARE),
    "value decides": (lambda m, x: m.norm(y) if (y := m.conv(x)).sum() > 0 else m.relu(y), BARE),
    "changed in place": (lambda m, x: m.norm(m.conv(x).mul_(2)), BARE),
    "changed in place later": (lambda m, x: (y := m.conv(x), m.norm(y), y.zero_())[1], BARE),
    "another object": (lambda m, x: m.norm(m.conv(x).view(2, 4, 6, 6)), BARE),
    "norm by keyword": (lambda m, x: m.norm(input=m.conv(x)), BARE),
    "two steps": (lambda m, x: m.norm(y := m.conv(x)) + m.relu(y), BARE),
    "another layer": (lambda m, x: m.norm(y := m.conv(x)) + m.other(y), BARE),
    "functional relu": (lambda m, x: F.relu(m.norm(m.conv(x))), NORM),
    "functional relu in place": (lambda m, x: F.relu(m.norm(m.conv(x)), inplace=True), NORM),
    "functional norm": (lambda m, x: m.relu(F.instance_norm(m.conv(x))), BARE),
    "functional dropout": (lambda m, x: m.norm(F.dropout(m.conv(x), training=m.training)), BARE),
    "relu before norm": (lambda m, x: m.norm(m.relu(m.conv(x))), Chain("conv", None, "relu")),
    "relu called twice": (lambda m, x: m.relu(m.other(m.relu(m.norm(m.conv(x))))), NORM),
    "norm called twice": (lambda m, x: m.norm(m.other(m.norm(m.conv(x)))), BARE),
    "layer called twice": (lambda m, x: m.relu(m.norm(m.conv(x))) + m.conv(x), BARE),
    "forward called": (lambda m, x: m.relu(m.norm(m.conv.forward(x))), BARE),
    "norm's forward called": (lambda m, x: m.relu(m.norm.forward(m.conv(x))), BARE),
    "weight used elsewhere": (lambda m, x: straight(m, x) + m.conv.weight.mean(), BARE),
    "statistics used elsewhere": (lambda m, x: straight(m, x) + m.norm.running_var[0], BARE),
    "not called": (lambda m, x: x, BARE),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_is_done_with_the_tensors_between(name):
    run, found = RUNS[name]
    assert chain(run) == found


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2


def double(x):
    return x * 2


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_code_that_is_no_torch_function_is_a_user_too():
    for use in (torch.jit.script(double), Double.apply, torch.vmap(double), torch.compile(double, backend="eager")):
        assert chain(lambda m, x, use=use: m.norm(y := m.conv(x)) + use(y)) == BARE


def test_in_place_relu_is_a_step_like_any_other():
    relu = nn.ReLU(inplace=True)
    assert chain(straight, relu=relu) == FULL
    assert chain(lambda m, x: (y := m.norm(m.conv(x))) + m.relu(y), relu=relu) == FULL  # `y` is the relu's output
    assert chain(lambda m, x: m.relu(m.norm(y := m.conv(x))) + y, relu=relu) == BARE
    assert chain(lambda m, x: (y := m.norm(m.conv(x))).view(-1).sum() + m.relu(y), relu=relu) == NORM
    x = image()
    before = x.clone()
    find_chains(nn.Sequential(relu, nn.Conv2d(3, 4, 1)), x)
    assert torch.equal(x, before)  # it is the caller's


def test_identities_are_passed_over():
    model = Toy(lambda m, x: m.relu(m.skip(m.norm(m.drop(m.skip(m.conv(x)))))), drop=nn.Dropout(), skip=nn.Identity())
    assert find_chains(model.eval(), image())["conv"] == FULL
    model.drop.train()  # on purpose
    assert find_chains(model, image())["conv"] == BARE


class Half(nn.Module):
    def forward(self, x):
        return x / 2


def patched(module):
    module.forward = Half().forward
    return module


def parametrized(norm):
    parametrize.register_parametrization(norm, "weight", Half())
    return norm


NORMS = [
    nn.BatchNorm2d(4, track_running_stats=False), nn.InstanceNorm2d(4, track_running_stats=True), nn.GroupNorm(2, 4),
    nn.SyncBatchNorm(4), type("Subclass", (nn.BatchNorm2d,), {})(4), parametrized(nn.BatchNorm2d(4)),
    patched(nn.BatchNorm2d(4)),
]  # fmt: skip


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_norms_that_are_no_constant_affine_map(norm):
    assert chain(straight, norm=norm) == BARE


@pytest.mark.parametrize("act", [nn.ReLU6(), nn.SiLU(), nn.LeakyReLU(), patched(nn.ReLU())], ids=str)
def test_activations_other_than_relu(act):
    assert chain(straight, relu=act) == NORM


def test_norm_of_timm_that_holds_its_activation():
    def found(change=None, run=lambda m, x: m.other(m.norm(m.conv(x))), **options):
        norm = BatchNormAct2d(4, **options)
        if change is not None:
            change(norm)
        return chain(run, norm=norm)

    assert found() == found(inplace=False) == found(drop_layer=nn.Dropout) == Chain("conv", "norm", "norm.act")
    assert found(act_layer=nn.SiLU) == found(apply_act=False) == NORM
    assert found(lambda norm: norm.act.register_forward_hook(lambda *args: None)) == NORM
    assert found(lambda norm: norm.add_module("again", norm.act)) == NORM
    assert found(drop_layer=Half) == BARE
    assert found(run=straight, act_layer=nn.Identity) == FULL
    assert found(run=straight, act_layer=nn.SiLU) == NORM


def test_modules_in_training_mode():
    model = Toy(straight).eval()
    model.norm.train()
    assert find_chains(model, image())["conv"] == BARE
    # a model as a whole: what it will be
    assert find_chains(Toy(straight), image())["conv"] == FULL


def test_modules_under_two_names_and_tied_weights():
    norm, conv, tied = nn.BatchNorm2d(4), nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    assert chain(straight, norm=norm, again=norm) == BARE
    assert chain(straight, conv=conv, again=conv) == FULL  # a layer stays where it is
    tied.weight = conv.weight
    assert chain(lambda m, x: m.norm(m.conv(x)) + m.tied(x), conv=conv, tied=tied) == BARE


@pytest.mark.parametrize(
    ("where", "found"), [("conv", BARE), ("norm", BARE), ("relu", NORM), ("other", FULL), ("skip", BARE)]
)
@pytest.mark.parametrize("kind", ["register_forward_pre_hook", "register_forward_hook"])
def test_hooks_of_the_user_see_what_a_chain_would_hide(where, found, kind):
    seen = []
    model = Toy(lambda m, x: m.other(m.relu(m.norm(m.skip(m.conv(x))))), skip=nn.Identity()).eval()
    getattr(model.get_submodule(where), kind)(lambda module, *args: seen.append(module))
    assert find_chains(model, image())["conv"] == found
    assert seen == [model.get_submodule(where)]


def test_a_hook_on_a_block_sees_the_tensors_at_its_ends():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))
    assert find_chains(model, image())["0.0"] == Chain("0.0", "1.0", "1.1")
    model[0].register_forward_hook(lambda module, args, output: None)
    assert find_chains(model, image())["0.0"] == Chain("0.0")


POOLS = [
    nn.MaxPool1d(3, 2), nn.MaxPool1d(2, padding=1), nn.MaxPool1d(2, dilation=2), nn.MaxPool1d(2, ceil_mode=True),
]  # fmt: skip
NO_POOLS = [nn.MaxPool1d(2, return_indices=True), nn.AvgPool1d(2), nn.LPPool1d(1, 2), nn.MaxPool2d(2)]
SEQUENCES = [
    ((2, 3), nn.Linear(3, 4), [nn.BatchNorm1d(4), nn.ReLU()], ("1", "2")),
    ((2, 4, 3), nn.Linear(3, 4), [nn.BatchNorm1d(4), nn.ReLU()], ()),  # norm over another dimension
    ((2, 4, 3), nn.Linear(3, 4), [nn.ReLU(), nn.MaxPool1d(2)], (None, "1")),  # pool over features
    ((3, 5), nn.Conv1d(3, 4, 2), [nn.BatchNorm1d(4)], ()),  # no batch: norm over time
    ((3, 5, 5), nn.Conv2d(3, 4, 2), [nn.BatchNorm1d(4)], ()),
    ((1, 3, 9), nn.Conv1d(3, 4, 2), [nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2), nn.ReLU()], ("1", "2", "3")),
    ((2, 3, 9), nn.Conv1d(3, 4, 2), [nn.ReLU(), nn.MaxPool1d((2,), (2,)), nn.BatchNorm1d(4)], (None, "1", "2")),
    ((2, 3, 9), nn.Conv1d(3, 4, 2), [nn.BatchNorm1d(4), nn.MaxPool1d(2), nn.ReLU()], ("1", "3", "2")),
    ((2, 3, 9), nn.Conv1d(3, 4, 2), [nn.MaxPool1d(2), nn.ReLU(), nn.MaxPool1d(2)], (None, "2", "1")),
    ((2, 3, 9), nn.Conv1d(3, 4, 2), [nn.ReLU(), nn.MaxPool1d(2), nn.ReLU()], (None, "1", "2")),
    ((2, 3, 9), nn.Conv1d(3, 4, 2), [nn.MaxPool1d(2), nn.BatchNorm1d(4)], (None, None, "1")),
    ((2, 3, 9), nn.Conv1d(3, 4, 2), [nn.MaxPool1d(2)], (None, None, "1")),
    ((2, 3, 9), nn.Conv1d(3, 4, 2), [nn.Sigmoid(), nn.MaxPool1d(2)], ()),
    ((2, 3, 9, 9), nn.Conv2d(3, 4, 2), [nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], ("1", "2", "3")),
    *(((2, 3, 9), nn.Conv1d(3, 4, 2), [nn.ReLU(), pool], (None, "1", "2")) for pool in POOLS),
    *(((2, 3, 9), nn.Conv1d(3, 4, 2), [nn.ReLU(), pool], (None, "1")) for pool in NO_POOLS),
]


@pytest.mark.parametrize(("shape", "layer", "steps", "found"), SEQUENCES)
def test_steps_in_a_row(shape, layer, steps, found):
    assert find_chains(nn.Sequential(layer, *steps), torch.randn(shape)) == {"0": Chain("0", *found)}


def state(model):
    """All that a run could change."""
    hooks = [len(vars(m)[name]) for m in model.modules() for name in vars(m) if "forward" in name and "hooks" in name]
    tensors = [(key, id(t), t.requires_grad, t.tolist()) for key, t in model.state_dict(keep_vars=True).items()]
    modes = [m.training for m in model.modules()]
    return hooks, tensors, modes, torch.is_grad_enabled(), torch.get_rng_state().tolist()


def wasteful(m, x):
    m.calls += 1
    m.norm.running_mean = m.norm.running_mean + torch.rand(4)
    return straight(m, x)


def failing(m, x):
    wasteful(m, x)
    raise KeyError("mine")


@pytest.mark.parametrize("run", [wasteful, failing])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(run, training):
    model, x = Toy(run).train(training), image()
    model.register_buffer("calls", torch.zeros(()))
    model.relu.train(not training)
    model.conv.weight.requires_grad_(False)
    before = state(model)
    with pytest.raises(KeyError, match="mine") if run is failing else nullcontext():
        find_chains(model, x)
    assert state(model) == before


def test_several_inputs_and_layers():
    model = Toy(lambda m, a, scale, b: (straight(m, a) * scale, m.other(b)))
    assert find_chains(model, (image(), 2, torch.randn(1, 4, 3, 3))) == {"conv": FULL, "other": Chain("other")}
    assert find_chains(nn.Linear(3, 4), torch.randn(2, 3)) == {"": Chain("")}
    assert find_chains(nn.ConvTranspose2d(3, 4, 3), image()) == {}


@pytest.mark.parametrize("preset", ["autosample", "wsnet", "dfsnet"])
def test_summary_layers_are_layers(preset):
    model = Toy(straight, conv=nn.Conv2d(3, 32, 3), norm=nn.BatchNorm2d(32)).eval()
    convert_(model, preset, ratio=4, exclude=["other"])
    assert isinstance(model.conv, SummaryLayer)
    assert find_chains(model, image()) == {"conv": FULL, "other": Chain("other")}


def test_layers_whose_parameters_are_used_elsewhere():
    def lent(run, **modules):
        return find_chains(Toy(run, **modules).eval(), image())["conv"].lent

    assert not lent(straight)
    assert not lent(lambda m, x: m.conv(x) + m.conv(x))
    assert lent(lambda m, x: m.conv(x) + m.conv.bias.sum())
    assert lent(lambda m, x: m.conv.forward(x))
    model = Toy(lambda m, x: straight(m, x.to(m.conv.weight.dtype)), norm=nn.BatchNorm2d(32))
    model.conv = nn.Conv2d(3, 32, 3)
    assert not find_chains(model, image())["conv"].lent  # nothing but the type of a parameter
    convert_(model, "wsnet", ratio=4, exclude=["other"])
    assert find_chains(model, image())["conv"].lent  # the weight is sampled for that


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_scripted_modules_with_buffers():
    inner = torch.jit.script(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()).eval())
    before = {name: buffer.clone() for name, buffer in inner.named_buffers()}
    assert chain(lambda m, x: m.inner(straight(m, x)), inner=inner) == FULL
    assert all(torch.equal(buffer, before[name]) for name, buffer in inner.named_buffers())
