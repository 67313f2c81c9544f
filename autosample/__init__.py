"""autosample: layers that sample their filters from a small learned summary."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from autosample.errors import AutosampleError as AutosampleError

if TYPE_CHECKING:
    from autosample.artifact import from_pretrained as from_pretrained
    from autosample.artifact import load as load
    from autosample.artifact import push_to_hub as push_to_hub
    from autosample.artifact import save as save
    from autosample.budget.convert import convert as convert
    from autosample.budget.convert import convert_ as convert_
    from autosample.deployment.deploy import deploy as deploy
    from autosample.export import export_onnx as export_onnx
    from autosample.export import export_pt2 as export_pt2
    from autosample.model.convert import densify as densify
    from autosample.model.convert import densify_ as densify_
    from autosample.model.convert import harden_ as harden_
    from autosample.model.norms import renew_norms_ as renew_norms_
    from autosample.model.quantize import quantize_ as quantize_
    from autosample.model.report import Report as Report
    from autosample.model.report import report as report
    from autosample.sampling.spec import PRESETS as PRESETS
    from autosample.sampling.spec import Spec as Spec
    from autosample.sampling.spec import spec as spec

__version__ = "0.1.0"

__all__ = [
    "convert", "convert_", "densify", "densify_", "deploy", "export_onnx", "export_pt2", "from_pretrained", "harden_",
    "load", "push_to_hub", "quantize_", "renew_norms_", "report", "save", "spec",
    "Report", "Spec", "PRESETS", "AutosampleError",
]  # fmt: skip

# The module of each name. Modules are imported when a name is first used, so `import autosample` is quick.
_HOMES = {
    "autosample.artifact": ("from_pretrained", "load", "push_to_hub", "save"),
    "autosample.budget.convert": ("convert", "convert_"),
    "autosample.deployment.deploy": ("deploy",),
    "autosample.export": ("export_onnx", "export_pt2"),
    "autosample.model.convert": ("densify", "densify_", "harden_"),
    "autosample.model.norms": ("renew_norms_",),
    "autosample.model.quantize": ("quantize_",),
    "autosample.model.report": ("Report", "report"),
    "autosample.sampling.spec": ("PRESETS", "Spec", "spec"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


_ROOMS = ("artifact", "data", "deployment", "export", "model", "models", "nn", "sampling", "training")


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
