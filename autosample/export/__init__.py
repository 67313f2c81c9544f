"""Models for other runtimes: ONNX and `.pt2` files, as small as what the model stores, and checked."""

from autosample.export.check import Exported as Exported
from autosample.export.formats import FORMATS as FORMATS
from autosample.export.formats import Format as Format
from autosample.export.formats.onnx import onnx_runner as onnx_runner
from autosample.export.write import export_onnx as export_onnx
from autosample.export.write import export_pt2 as export_pt2
from autosample.export.write import write_model as write_model
