"""Real nets in all presets: exact in onnxruntime, and compact."""

import pytest
import torch

import autosample
from autosample.experiments.bench.sides import _liven
from autosample.export.check import TOLERANCE
from autosample.models import create

SHAPES = {"m5": (1, 8000), "soundnet8": (1, 40000), "resnet18": (3, 64, 64), "mobilenetv2_100": (3, 64, 64)}


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted(autosample.PRESETS))
@pytest.mark.parametrize("name", SHAPES)
def test_export(name, preset, tmp_path):
    model = create(name, num_classes=10)
    if preset != "dense":
        autosample.convert_(model, preset, ratio=8)
        autosample.harden_(model)
    _liven(model)
    done = autosample.export_onnx(model, tmp_path / "model.onnx", torch.randn(1, *SHAPES[name]))
    assert done.error <= TOLERANCE
