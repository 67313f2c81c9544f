"""The verb `export`: a file for other runtimes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autosample.cli.calibration import add_calibration, calibration_batches
from autosample.cli.options import Parser, Several, add_factory, flag, parse, whole
from autosample.errors import ConfigError, ExportError, hint, one_line

# what this verb writes besides files for other runtimes: default name, and a word for the help text
_OTHERS = {
    "artifact": ("saved", "a saved model"),
    "dense": ("dense.safetensors", "the weights of the dense model, for timm and torch"),
}


def declare(parser: Parser) -> None:
    """Declare the options of `export`."""
    from autosample.export import FORMATS

    parser.description = (
        "Write a saved model or a checkpoint as a file for other runtimes. The file is checked against torch. It is "
        "about as small as the saved model."
    )
    known = {name: form.about for name, form in FORMATS.items()} | {name: about for name, (_, about) in _OTHERS.items()}
    kinds = "; ".join(f"{name} ({about})" for name, about in known.items())
    add = parser.add_argument
    add("path", type=Path, help="folder of a saved model, or a checkpoint that `autosample fit` wrote")
    add("--format", default="onnx", help=f"{kinds}. Default: onnx")
    add("--out", type=Path,
        help="file to write, or folder for an artifact (default: model.onnx, model.pt2, … beside path)")  # fmt: skip
    add("--input", nargs="+", action=Several, each=whole,
        help="shape of one example, without the batch (default: the model's own)")  # fmt: skip
    add("--batch", type=whole, default=1, help="batch size that the layers' forms are chosen for (1)")
    yes = {"nargs": "?", "const": True, "type": flag}
    add("--dynamic", default=True, **yes, help="let the batch size and the length of signals vary (true)")
    add("--dense", default=False, **yes, help="write dense weights (false)")
    add_factory(parser)
    add("--opset", type=whole, help="ONNX opset (18)")
    add_calibration(parser, "to measure ranges of activations on, for onnx-int8", 128)
    table = "also print sizes and times of the dense model, this model and the files of both (true for onnx-int8)"
    add("--compare", default=None, **yes, help=table)


def main(args: Sequence[str]) -> None:
    """Run the verb."""
    export(**parse(args, declare))


def export(
    path: Path,
    format: str,
    out: Path | None,
    input: list[int] | None,
    batch: int,
    dynamic: bool,
    dense: bool,
    opset: int | None,
    calibrate: list[Path] | None,
    examples: int,
    compare: bool | None,
    factory: Any = None,
) -> None:
    """Write a saved model or a checkpoint as a file for other runtimes. For the options see `declare`.

    Raises:
        AutosampleError: An option is not usable, or the model cannot be written.
    """
    from autosample.artifact import load_any
    from autosample.export import FORMATS, write_model

    names = {name: form.file_name for name, form in FORMATS.items()}
    names |= {name: file for name, (file, _) in _OTHERS.items()}
    if format not in names:
        raise ConfigError(f'format must be one of {", ".join(names)}, got "{format}": {hint(format, names)}')
    integers = format == "onnx-int8"
    compare = integers if compare is None else compare
    if calibrate and not (integers or compare):
        raise ConfigError(f"calibrate is for the format onnx-int8, got {format}: leave it out")
    if batch < 1:
        raise ConfigError(f"batch must be at least 1, got {batch}: leave it out for one example")
    model, config = load_any(path, factory=factory)
    target = out or (path if path.is_dir() else path.parent) / names[format]
    example = _example(model, dict(config.preprocessing), input, batch) if format in FORMATS or compare else None
    batches = calibration_batches(calibrate, config.preprocessing, examples)
    if format == "artifact":
        _write_artifact(model, config, target, factory)
    elif format == "dense":
        _write_dense(model, target)
    else:
        assert example is not None
        settings = {"opset": opset} if opset is not None else {}
        form = FORMATS[format].adjusted(**settings, **({"calibrate": batches} if integers else {}))
        print(write_model(form, model, target, example, dynamic=dynamic, dense=dense))
    if compare:
        from autosample.export.compare import compare_runtimes

        assert example is not None
        print(compare_runtimes(model, example, calibrate=batches))


def _write_artifact(model: nn.Module, config: Any, target: Path, factory: Any) -> None:
    from autosample.artifact import save

    saved = save(model, target, config=config, factory=factory)
    assert saved.tensors is not None
    print(f"{target}: {saved.tensors.bytes:,} bytes of tensors")


def _write_dense(model: nn.Module, target: Path) -> None:
    """The state of the dense model, under its own names."""
    import safetensors.torch

    from autosample.model.convert import densify
    from autosample.nn import compressed_layers
    from autosample.system.files import write_bytes

    dense = densify(model) if compressed_layers(model) else model
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in dense.state_dict().items()}
    data = safetensors.torch.save(state, {"format": "pt"})
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, data)
    except OSError as error:
        raise ExportError(f"{target} cannot be written ({one_line(error)}): choose another file") from error
    print(f"{target}: {len(data):,} bytes, the weights of a dense {type(model).__name__}")


def _example(model: nn.Module, preprocessing: dict[str, Any], shape: list[int] | None, batch: int) -> Tensor:
    """Random numbers with the shape of the model's input: batch, then `shape`."""
    if shape is None and "sample_rate" in preprocessing and "log_mel" not in preprocessing:
        shape = [1, preprocessing.get("crop") or preprocessing["samples"]]
    if shape is None:
        known = getattr(model, "pretrained_cfg", {}).get("input_size", ())
        shape = list(preprocessing.get("input_size") or known)
        if len(shape) == 3 and shape[1] == 1 and any(isinstance(m, nn.Conv1d) for m in model.modules()):
            shape = [shape[0], shape[2]]  # timm wants a height of signals; images may meet a Conv1d too, as in ECA nets
    if not shape or min(shape) < 1:
        raise ExportError(f"export needs the shape of an input, got {shape}: pass --input 3 224 224")
    return torch.randn(batch, *shape)
