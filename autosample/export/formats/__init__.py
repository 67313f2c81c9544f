"""File formats of models: one class per format, and one row each here."""

from autosample.export.formats.base import Format as Format
from autosample.export.formats.base import Run as Run
from autosample.export.formats.onnx import Onnx
from autosample.export.formats.pt2 import Pt2

#: Formats by their name on the command line.
FORMATS: dict[str, Format] = {
    "onnx": Onnx(),
    "onnx-int8": Onnx(file_name="model-int8.onnx", int8=True),
    "pt2": Pt2(),
}
