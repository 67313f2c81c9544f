"""Optional packages. Each belongs to an extra of autosample, such as `autosample[train]`."""

from importlib.util import find_spec

from autosample.errors import MissingExtra

_TRAIN = ("pytorch_lightning", "torchmetrics", "jsonargparse", "wandb", "sklearn", "soundfile", "soxr")
_ABLATE = (*_TRAIN, "scipy", "matplotlib")

#: Modules that each extra in pyproject.toml installs.
EXTRAS = {
    "train": _TRAIN,
    "ablate": _ABLATE,
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "ray": (*_ABLATE, "ray"),
    "rivals": (*_ABLATE, "torch_pruning"),
}


def require(extra: str, *modules: str) -> None:
    """Raise `MissingExtra` unless these modules can be imported.

    Args:
        extra: Extra that installs them, a key of `EXTRAS`.
        modules: Some of its modules; by default all.
    """
    missing = [name for name in modules or EXTRAS[extra] if not _is_there(name)]
    if missing:
        named = ", ".join(missing)
        raise MissingExtra(f"this needs packages that are not installed, {named}: pip install 'autosample[{extra}]'")


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False
