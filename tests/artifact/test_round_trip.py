"""What is saved is what a fresh process loads, bit by bit."""

import copy
import json
from pathlib import Path

import pytest
import safetensors
import timm
import torch
from saved_models import INPUTS, make
from torch import nn

import autosample
from autosample import PRESETS, harden_, quantize_
from autosample.artifact import compact_state, load_any
from autosample.errors import ArtifactError
from autosample.nn import SummaryConv1d

QUANTISERS = {
    "none": None,
    "half": {"bits": 8, "rest": "fp16"},
    "linear 8": {"bits": 8},
    "linear 4": {"bits": 4, "rest": "bf16"},
    "codebook 8": {"bits": 8, "method": "codebook"},
    "codebook 3": {"bits": 3, "method": "codebook", "layers": "all", "rest": "fp16"},
    "everything": {"bits": 5, "layers": "all", "rest": "bf16"},
}
# every preset, every quantiser and every small net at least once
DIAGONAL = [
    ("dense", "codebook 3", "m5", {}),
    ("wsnet", "linear 8", "m5", {"denser": 2}),
    ("fsnet", "half", "digitnet", {}),
    ("dfsnet", "none", "m5", {}),
    ("nes", "linear 4", "test_resnet", {}),
    ("hashednet", "codebook 8", "m5", {}),
    ("kmeans", "everything", "digitnet", {}),
    ("random", "everything", "test_resnet", {"columns": "shuffle", "signs": "random"}),
    ("autosample", "linear 8", "test_resnet", {"signs": "random"}),
    ("autosample", "none", "m5", {"columns": "table", "grid": 2}),
    ("autosample", "everything", "test_resnet", {"rule": "categorical"}),
    ("strassen", "none", "m5", {"ratio": None, "options": {"products": 0.75, "patch": 2}}),
    ("strassen", "half", "test_resnet", {}),
    ("wsnet", "none", "digitnet", {"ratio": None, "options": {"spatial": 3, "channel": 4}}),
]


def quantised(model: nn.Module, how: str) -> nn.Module:
    options = QUANTISERS[how]
    if options is not None and (how in ("codebook 3", "everything") or list(autosample.report(model).converted)):
        quantize_(model, **options)
    return model


@pytest.mark.slow
def test_a_diagonal_of_presets_quantisers_and_nets(saved, load_afresh):
    folders = []
    for i, (preset, how, net, changes) in enumerate(DIAGONAL):
        model = quantised(make(net, preset, **changes), how)
        compression = ("xz", "none", "huffman")[i % 3]
        folders.append(saved(model, str(i), torch.randn(INPUTS[net]), compression=compression))
    load_afresh(folders)


@pytest.mark.slow
@pytest.mark.parametrize("net", ["m5", "soundnet8", "resnet18", "mobilenetv2_100"])
def test_every_preset_and_quantiser(saved, load_afresh, net):
    folders = []
    for preset in (*PRESETS, "strassen"):
        model = make(net, preset)
        for how in QUANTISERS:
            folders.append(saved(quantised(copy.deepcopy(model), how), f"{preset}-{how}", torch.randn(INPUTS[net])))
    load_afresh(folders)


def test_saving_changes_nothing_of_a_model_that_is_still_learning(tmp_path):
    model = make("m5", "autosample")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    autosample.save(model, tmp_path)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not model.stages[1].conv.offsets.is_frozen
    loaded = autosample.load(tmp_path)
    for name, tensor in compact_state(harden_(model)).items():
        assert torch.equal(compact_state(loaded)[name], tensor)


def test_a_loaded_model_saves_to_the_same_bytes(tmp_path):
    model = make("test_resnet", "autosample", signs="random")
    quantize_(model, 4, layers="all", rest="bf16")
    first = autosample.save(model, tmp_path / "a")
    again, config = load_any(tmp_path / "a")
    assert autosample.save(again, tmp_path / "b", config=config).tensors == first.tensors
    assert (tmp_path / "a/config.json").read_text() == (tmp_path / "b/config.json").read_text()
    assert (tmp_path / "a/README.md").read_text() == (tmp_path / "b/README.md").read_text()


def test_a_loaded_model_trains_and_reports_like_the_one_saved(tmp_path):
    model = harden_(make("m5", "autosample"))
    autosample.save(model, tmp_path)
    loaded = autosample.load(tmp_path).train()
    loaded(torch.randn(INPUTS["m5"])).square().sum().backward()
    assert loaded.stages[1].conv.summary.grad.abs().sum() > 0
    assert autosample.report(loaded).rows == autosample.report(model).rows


class Shared(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.a, self.b = nn.Conv1d(width, width, 9, padding=4), nn.Conv1d(width, width, 9, padding=4)
        self.c = nn.Linear(width, width)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(2))
        self.register_buffer("table", torch.arange(40.0), persistent=False)

    def forward(self, x):
        return self.c(self.norms[1](self.b(self.norms[0](self.a(x)))).mean(2)) + self.table[3]


def test_layers_that_share_a_summary_go_on_sharing_it(tmp_path):
    model = Shared()
    autosample.convert_(model, "random", ratio=4)
    model.b.summary = model.a.summary
    model.norms[1].bias = model.norms[0].bias
    for step in range(3):
        if step == 1:
            report = quantize_(model, 4, method="codebook")
            assert len(report.rows) == 2
        if step == 2:
            quantize_(model, 8, rest="fp16")
        assert model.b.quantizers is None or model.a.quantizers["summary"] is model.b.quantizers["summary"]
        folder = tmp_path / str(step)
        config = autosample.save(model, folder, factory=Shared, arguments={"width": 16})
        assert config.shared == {"b.summary": "a.summary", "norms.1.bias": "norms.0.bias"}
        loaded = autosample.load(folder, factory=Shared)
        assert loaded.b.summary is loaded.a.summary
        assert loaded.norms[1].bias is loaded.norms[0].bias
        assert not loaded.table.is_meta
        if step:
            assert loaded.a.quantizers["summary"] is loaded.b.quantizers["summary"]
        x = torch.randn(2, 16, 30)
        assert torch.equal(loaded(x), model.eval()(x))
        assert autosample.report(loaded).stored_bytes == autosample.report(model).stored_bytes


def test_the_safetensors_library_alone_lists_the_tensors(tmp_path):
    model = make("digitnet", "autosample")
    quantize_(model, 4)
    config = autosample.save(model, tmp_path)
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
        bits = file.get_tensor("stages.1.conv.summary.codes").numel() * 8
    assert names == set(compact_state(model))
    assert bits == 4 * model.stages[1].conv.summary.numel()
    size = sum(t.nbytes for t in compact_state(model).values())
    assert config.stored_bytes == size == autosample.report(model).stored_bytes
    assert (tmp_path / "model.safetensors").stat().st_size == config.tensors.bytes < size + 6000


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_precisions(tmp_path, dtype):
    model = make("digitnet", "autosample")
    quantize_(model, 8)
    model.to(dtype)
    autosample.save(model, tmp_path)
    loaded = autosample.load(tmp_path)
    for name, tensor in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == tensor.dtype
    for module, twin in zip(model.stages, loaded.stages, strict=True):
        assert torch.equal(module.conv.weight, twin.conv.weight)


def test_names_and_arguments_that_timm_knows(tmp_path):
    wide = timm.create_model("digitnet", num_classes=3, in_chans=2)
    autosample.save(wide, tmp_path / "a")
    assert autosample.load(tmp_path / "a").head.fc.out_features == 3
    wide.reset_classifier(5)
    config = autosample.save(wide, tmp_path / "b", class_names="abcde", facts={"metrics": {"accuracy": 0.5}})
    assert dict(config.source.arguments) == {"in_chans": 2, "num_classes": 5}
    assert load_any(tmp_path / "b")[1].class_names == tuple("abcde")


def test_a_net_made_with_arguments_that_nobody_knows_is_refused_until_they_are_given(tmp_path):
    net = timm.create_model("digitnet", num_classes=3, width=0.5)
    with pytest.raises(ArtifactError, match="pass the arguments="):
        autosample.save(net, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    autosample.save(net, tmp_path / "a", arguments={"num_classes": 3, "width": 0.5})
    assert autosample.load(tmp_path / "a").head.fc.in_features == 64
    # create remembers them
    made = autosample.models.create("digitnet", num_classes=3, width=0.5)
    autosample.save(made, tmp_path / "b")


def test_settings_that_no_tensor_shows_count_as_arguments(tmp_path):
    net = timm.create_model("test_resnet", num_classes=3, global_pool="max")
    with pytest.raises(ArtifactError, match="global_pool"):
        autosample.save(net, tmp_path)
    autosample.save(net, tmp_path, arguments={"num_classes": 3, "global_pool": "max"})
    x = torch.randn(INPUTS["test_resnet"])
    assert torch.equal(autosample.load(tmp_path)(x), net.eval()(x))


def test_models_of_ones_own_need_a_factory(tmp_path):
    model = nn.Sequential(nn.Conv1d(8, 16, 9), nn.ReLU())
    with pytest.raises(ArtifactError, match="factory="):
        autosample.save(model, tmp_path)
    autosample.save(model, tmp_path, factory=lambda: nn.Sequential(nn.Conv1d(8, 16, 9), nn.ReLU()))
    with pytest.raises(ArtifactError, match="pass factory="):
        autosample.load(tmp_path)
    with pytest.raises(ArtifactError, match="must have the shape"):
        autosample.load(tmp_path, factory=lambda: nn.Sequential(nn.Conv1d(8, 16, 7), nn.ReLU()))


def test_a_single_layer(tmp_path):
    layer = SummaryConv1d(16, 32, 9, spec="autosample", ratio=4)
    quantize_(layer, 8)
    autosample.save(layer, tmp_path, factory=lambda: nn.Conv1d(16, 32, 9))
    loaded = autosample.load(tmp_path, factory=lambda: nn.Conv1d(16, 32, 9))
    assert isinstance(loaded, SummaryConv1d)
    assert torch.equal(loaded.weight, layer.weight)


def test_buffers_that_no_file_holds_get_their_values(tmp_path):
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, embed_dim=24, depths=(1, 1, 1, 1)).eval()
    arguments = {"num_classes": 3, "embed_dim": 24, "depths": (1, 1, 1, 1)}
    autosample.save(model, tmp_path, arguments=arguments)
    x = torch.randn(1, 3, 224, 224)
    assert torch.equal(autosample.load(tmp_path)(x), model(x))


def test_a_model_of_format_1_stays_loadable():
    folder = Path(__file__).parents[1] / "fixtures" / "artifacts" / "schema1"
    model, config = load_any(folder)
    expected = json.loads((folder / "expected.json").read_text())
    torch.testing.assert_close(model(torch.linspace(-1, 1, 64).view(1, 1, 8, 8))[0], torch.tensor(expected))
    assert config.class_names == tuple("0123456789")
    assert set(config.rounded.values()) == {"float32"}
