"""autosample: layers that sample their filters from a small learned summary."""

from autosample.artifact import from_pretrained as from_pretrained
from autosample.artifact import load as load
from autosample.artifact import push_to_hub as push_to_hub
from autosample.artifact import save as save
from autosample.deployment.deploy import deploy as deploy
from autosample.errors import AutosampleError as AutosampleError
from autosample.export import export_onnx as export_onnx
from autosample.export import export_pt2 as export_pt2
from autosample.model.convert import convert as convert
from autosample.model.convert import convert_ as convert_
from autosample.model.convert import harden_ as harden_
from autosample.model.quantize import quantize_ as quantize_
from autosample.model.report import Report as Report
from autosample.model.report import report as report
from autosample.sampling.spec import PRESETS as PRESETS
from autosample.sampling.spec import Spec as Spec
from autosample.sampling.spec import spec as spec

__version__ = "0.1.0"

__all__ = [
    "convert", "convert_", "deploy", "export_onnx", "export_pt2", "from_pretrained", "harden_", "load", "push_to_hub",
    "quantize_", "report", "save", "spec",
    "Report", "Spec", "PRESETS", "AutosampleError",
]  # fmt: skip
