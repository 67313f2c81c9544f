"""Models for other runtimes: ONNX and `.pt2` files that stay as small as what the model stores, each checked."""

from autosample.export.check import Exported as Exported
from autosample.export.write import export_onnx as export_onnx
from autosample.export.write import export_pt2 as export_pt2
from autosample.export.write import onnx_runner as onnx_runner
