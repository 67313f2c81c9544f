"""Layers with three axes and transposed ones: a row in the table of kinds, and every verb knows them."""

import copy

import pytest
import torch
from torch import nn
from torchvision.models.video import r3d_18

import autosample
from autosample.nn import SummaryConv3d, SummaryConvTranspose1d, SummaryConvTranspose2d, compressed_layers

TRANSPOSED = {
    "ConvTranspose1d": (nn.ConvTranspose1d, SummaryConvTranspose1d, (24, 16, 4), {"stride": 2, "padding": 1}, (24, 20)),
    "ConvTranspose2d": (
        nn.ConvTranspose2d,
        SummaryConvTranspose2d,
        (24, 16, 3),
        {"stride": 2, "output_padding": 1, "groups": 2},
        (24, 6, 7),
    ),
}


class UNet(nn.Module):
    """Two steps down and two up, with skips, as in segmentation."""

    def __init__(self, width=16):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList([nn.Conv2d(width * 2**i, width * 2 ** (i + 1), 3, 2, 1) for i in range(2)])
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(width * 2 ** (2 - i), width * 2 ** (1 - i), 2, 2) for i in range(2)]
        )
        self.join = nn.ModuleList(
            [nn.Conv2d(width * 2 ** (2 - i), width * 2 ** (1 - i), 3, padding=1) for i in range(2)]
        )
        self.last = nn.Conv2d(width, 4, 1)

    def forward(self, x):
        seen = [self.first(x).relu()]
        for layer in self.down:
            seen.append(layer(seen[-1]).relu())
        y = seen.pop()
        for up, join in zip(self.up, self.join, strict=True):
            y = join(torch.cat([up(y), seen.pop()], 1)).relu()
        return self.last(y)


class Upsampler(nn.Sequential):
    """From frames of a spectrogram to samples, as a vocoder does."""

    def __init__(self):
        super().__init__(
            nn.Conv1d(40, 64, 7, padding=3),
            nn.LeakyReLU(0.1),
            nn.ConvTranspose1d(64, 32, 16, 8, 4),
            nn.LeakyReLU(0.1),
            nn.ConvTranspose1d(32, 16, 8, 4, 2),
            nn.LeakyReLU(0.1),
            nn.Conv1d(16, 1, 7, padding=3),
            nn.Tanh(),
        )


NETS = {"UNet": (UNet, (3, 32, 48)), "Upsampler": (Upsampler, (40, 12))}


@pytest.fixture(scope="module")
def video():
    """A net of 3-D convolutions, converted, and two frames."""
    torch.manual_seed(0)
    model = r3d_18(num_classes=5)
    report = autosample.convert_(model, "wsnet", ratio=8)
    return model, report, torch.randn(1, 3, 2, 32, 32)


def test_video_is_converted(video):
    model, report, _ = video
    assert len(report.converted) > 10
    assert report.ratio > 4
    assert all(isinstance(layer, nn.Conv3d | nn.Linear) for layer in compressed_layers(model).values())


def test_video_trains_a_step(video):
    model = copy.deepcopy(video[0]).train()
    before = {name: layer.summary.detach().clone() for name, layer in compressed_layers(model).items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    nn.functional.cross_entropy(model(torch.randn(2, 3, 2, 32, 32)), torch.tensor([1, 3])).backward()
    optimizer.step()
    assert all(not torch.equal(layer.summary, before[name]) for name, layer in compressed_layers(model).items())


def test_video_is_saved_loaded_and_deployed(video, tmp_path):
    model, _, x = video
    model = autosample.harden_(copy.deepcopy(model)).eval()
    expected = model(x)
    autosample.save(model, tmp_path, factory=r3d_18, arguments={"num_classes": 5})
    assert torch.equal(autosample.load(tmp_path, factory=r3d_18)(x), expected)
    fast = autosample.deploy(model, x, measure=False)
    torch.testing.assert_close(fast(x), expected, rtol=1e-4, atol=1e-4)
    assert not compressed_layers(fast)


@pytest.mark.parametrize("kind", TRANSPOSED)
@pytest.mark.parametrize("preset", ["wsnet", "fsnet", "random", "hashednet", "kmeans", "dfsnet"])
def test_a_transposed_layer_computes_what_torch_does_with_its_weight(kind, preset):
    dense, face, args, options, shape = TRANSPOSED[kind]
    layer = face(*args, **options, spec=preset, ratio=4).eval()
    twin = dense(*args, **options)
    assert layer.weight.shape == twin.weight.shape
    twin.load_state_dict({"weight": layer.weight.detach(), "bias": layer.bias.detach()})
    x = torch.randn(2, *shape)
    assert torch.equal(layer(x), twin(x))
    if kind == "ConvTranspose1d":
        assert torch.equal(layer(x, output_size=[41]), twin(x, output_size=[41]))


def test_a_face_takes_the_arguments_of_its_twin_in_order():
    layer = SummaryConv3d(4, 8, (1, 3, 3), 2, (0, 1, 1), 1, 2, False, "zeros", spec="random", ratio=2)
    twin = nn.Conv3d(4, 8, (1, 3, 3), 2, (0, 1, 1), 1, 2, False, "zeros")
    assert layer.weight.shape == twin.weight.shape
    assert (layer.stride, layer.padding, layer.groups, layer.bias) == (twin.stride, twin.padding, 2, None)


@pytest.mark.parametrize("name", NETS)
def test_decoders_are_converted_not_left_dense(name, tmp_path):
    make, shape = NETS[name]
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(2, *shape)
    report = autosample.convert_(model, "random", ratio=4)
    assert any("ConvTranspose" in row.kind for row in report.converted)
    assert not [row for row in report.rows if row.method == "dense" and "ConvTranspose" in row.kind]
    model(x).square().mean().backward()
    assert all(layer.summary.grad.any() for layer in compressed_layers(model).values())
    expected = autosample.harden_(model)(x)
    autosample.save(model, tmp_path, factory=make)
    assert torch.equal(autosample.load(tmp_path, factory=make)(x), expected)
    torch.testing.assert_close(autosample.deploy(model, x, measure=False)(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["UNet", "Upsampler"])
def test_decoders_are_exported(name, tmp_path):
    make, shape = NETS[name]
    model, x = make().eval(), torch.randn(2, *shape)
    autosample.convert_(model, "random", ratio=4)
    for write, file in ((autosample.export_onnx, "m.onnx"), (autosample.export_pt2, "m.pt2")):
        assert write(model, tmp_path / file, x, dynamic=False).error < 1e-4


def test_warm_start_of_a_transposed_layer_recovers_what_was_sampled():
    torch.manual_seed(0)
    source = SummaryConvTranspose2d(16, 8, 3, spec="random", ratio=4)
    layer = nn.ConvTranspose2d(16, 8, 3)
    layer.weight.data.copy_(source.weight.detach())
    autosample.convert_(layer, "random", ratio=4, warm_start=True)
    assert layer.fit_error < 1e-5
