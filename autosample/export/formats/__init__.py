"""File formats of models: one class per format, and one row each here."""

from autosample.export.formats.base import Format as Format
from autosample.export.formats.base import Run as Run
from autosample.export.formats.onnx import Onnx
from autosample.export.formats.onnx_int8 import OnnxInt8
from autosample.export.formats.pt2 import Pt2

#: Formats by their name on the command line.
FORMATS: dict[str, Format] = {
    "onnx": Onnx(),
    "onnx-int8-weights": Onnx(file_name="model-int8-weights.onnx", int8_weights=True),
    "onnx-int8": OnnxInt8(),
    "pt2": Pt2(),
}
