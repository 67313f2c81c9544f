import timm
import torch

import autosample

model = timm.create_model("resnet18", num_classes=10)
autosample.convert_(model, "autosample", ratio=8)
report = autosample.report(model, torch.randn(1, 3, 224, 224))
print(f"{report.dense_bytes:,} bytes dense, {report.stored_bytes:,} stored: {report.ratio:.2f} times smaller")
layer = model.layer4[0].conv1
print(tuple(layer.summary.shape), "->", tuple(layer.weight.shape), "at", layer.offsets()[0].tolist())
