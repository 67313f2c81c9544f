"""Models to save, and what a fresh process does with them."""

from pathlib import Path

import timm
from torch import nn

import autosample
import autosample.models

# what a fresh process does with each folder: nothing of this test or of the training is there, but the net's class
FRESH = f"""
import sys
sys.path.append({str(Path(__file__).parents[1])!r})
"""
FRESH += """
import json
from pathlib import Path
import safetensors.torch, torch
import autosample
from autosample.artifact import compact_state
from autosample.nn import compressed_layers, execution

torch.set_num_threads(1)
wrong = {}
for folder in map(Path, json.loads(sys.stdin.read())):
    expected = safetensors.torch.load_file(folder / "expected.bin")
    factory = None
    if json.loads((folder / "config.json").read_text())["model"]["kind"] == "factory":
        from every_kind import EveryKind as factory
    model = autosample.load(folder, factory=factory)
    with torch.no_grad(), execution("materialize"):
        y = model(expected.pop("x"))
    got = {"y": y, **{f"state.{k}": v.contiguous() for k, v in compact_state(model).items()}}
    got |= {f"weight.{k}": layer.weight.detach() for k, layer in compressed_layers(model).items() if layer.has_weight}
    bad = [k for k in expected.keys() | got.keys() if k not in got or not torch.equal(expected[k], got[k])]
    if bad or any(m.training for m in model.modules()):
        wrong[str(folder)] = bad
heavy = [n for n in ("pytorch_lightning", "torchmetrics", "matplotlib", "sklearn") if n in sys.modules]
print(json.dumps([wrong, heavy]))
"""
INPUTS = {
    "m5": (2, 1, 4000),
    "soundnet8": (1, 1, 110250),
    "resnet18": (1, 3, 64, 64),
    "mobilenetv2_100": (1, 3, 64, 64),
}
INPUTS |= {"test_resnet": (2, 3, 48, 48), "digitnet": (2, 1, 8, 8)}


def make(name: str, preset: str, **changes) -> nn.Module:
    """A net in evaluation mode whose norms are not those of a fresh one."""
    model = timm.create_model(name, num_classes=7)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    if preset != "dense":
        learned = (
            {"options": {"afford": 10}} if preset == "autosample" else {}
        )  # in convolutions its offsets are random
        autosample.convert_(model, preset, **{"ratio": 8, **learned, **changes})
    return model.eval()
