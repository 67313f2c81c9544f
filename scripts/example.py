import timm
import torch

import autosample

model, example = timm.create_model("resnet18", num_classes=10), torch.randn(1, 3, 224, 224)
autosample.convert_(model, "folded", ratio=8)
report = autosample.report(model, example)
print(f"{report.dense_bytes:,} bytes dense, {report.stored_bytes:,} stored: {report.ratio:.2f} times smaller")
fast = autosample.report(autosample.deploy(model, example), example)
print(f"{report.macs:,} multiply-adds dense, {fast.macs:,} deployed: {report.macs / fast.macs:.2f} times fewer")
