"""From a portable model to an ONNX graph: export, clean up without densifying, give everything its layer's name."""

import ast
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from autosample.errors import ExportError, one_line

# Constants of more numbers than this are never made by folding: sizes and axes fold, weights stay as they are stored.
_FOLDS = 64
_SCOPES = "pkg.torch.onnx.name_scopes"


def require(*modules: str) -> None:
    """Raise `ExportError` unless all of these can be imported."""
    from importlib.util import find_spec

    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ExportError(
            f"ONNX files need onnx, onnxscript and onnxruntime, {', '.join(missing)} is missing: "
            "pip install 'autosample[export]'"
        )


def to_onnx(model: nn.Module, args: tuple, *, opset: int, dynamic: tuple[Any, ...] | None) -> Any:
    """The graph of a portable model, as an `onnx_ir.Model`.

    Args:
        model, args: The model and its inputs.
        opset: Of the standard operators.
        dynamic: For each input its dynamic axes, as `torch.export` takes them; `None` for fixed shapes.

    Raises:
        ExportError: torch cannot trace or translate the model.
    """
    from onnxscript import optimizer

    names: dict[str, Any] = {"input_names": ["input"]} if len(args) == 1 else {}
    try:
        with quiet():
            program = torch.onnx.export(
                model, args, dynamo=True, opset_version=opset, dynamic_shapes=dynamic, verbose=False, optimize=False,
                **names,
            )  # fmt: skip
            assert program is not None
            optimizer.optimize_ir(program.model, input_size_limit=_FOLDS, output_size_limit=_FOLDS)
    except Exception as error:  # torch's exporters fail in many ways
        raise ExportError(
            f"torch.onnx.export must get through the model, got {type(error).__name__}: {last_line(error)}: "
            + ("try dynamic=False" if dynamic else "change the module that it names")
        ) from error
    graph = program.model.graph
    _join(graph)
    _merge_reshapes(graph)
    _leave_out_defaults(graph)
    _name(graph)
    program.model.producer_name, program.model.producer_version = "autosample", _version()
    return program.model


def _version() -> str:
    from autosample import __version__

    return __version__


def last_line(error: BaseException) -> str:
    """What an error of torch's exporters comes down to."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)[:300] or type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Hide what torch's exporters tell about themselves."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


# They do the same to every number, whatever the shape.
_UNARY = ("Relu", "LeakyRelu", "Elu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu", "Erf", "Identity")


def _join(graph: Any) -> None:
    """Take out `Unsqueeze(f(Squeeze(x)))` over one axis: signals stay flat images from layer to layer."""
    for node in list(graph):
        if node.op_type != "Unsqueeze" or _axes(node) is None:
            continue
        first, between = node, []
        while (before := first.inputs[0].producer()) is not None and before.op_type in _UNARY:
            between.append(first := before)
        shared = any(len(n.outputs[0].uses()) > 1 or n.outputs[0].is_graph_output() for n in between)
        if shared or before is None or before.op_type != "Squeeze" or _axes(node) != _axes(before):
            continue
        first.replace_input_with(0, before.inputs[0])
        for step in between:
            step.outputs[0].shape = None
        node.outputs[0].replace_all_uses_with(node.inputs[0], replace_graph_outputs=False)
        for done in (node, before):
            if not done.outputs[0].uses() and not done.outputs[0].is_graph_output():
                graph.remove(done, safe=True)


def _axes(node: Any) -> list[int] | None:
    """The constant that a node has for its second input: axes, or a shape."""
    value = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
    return None if value is None else value.numpy().reshape(-1).tolist()


def _merge_reshapes(graph: Any) -> None:
    """Of two reshapes in a row the second one says it all, unless it takes sizes over from the first."""
    for node in list(graph):
        before = node.inputs[0].producer() if node.op_type == "Reshape" else None
        if before is None or before.op_type != "Reshape" or 0 in (_axes(node) or [0]):
            continue
        node.replace_input_with(0, before.inputs[0])
        if not before.outputs[0].uses() and not before.outputs[0].is_graph_output():
            graph.remove(before, safe=True)


# What the standard takes where nothing is said; torch's exporter says it all the same.
_DEFAULTS = {
    "Reshape": {"allowzero": 0},
    "ReduceSum": {"noop_with_empty_axes": 0, "keepdims": 1},
    "ReduceMean": {"noop_with_empty_axes": 0, "keepdims": 1},
    "Conv": {"auto_pad": "NOTSET", "group": 1, "dilations": 1, "strides": 1, "pads": 0},
    "MaxPool": {"auto_pad": "NOTSET", "ceil_mode": 0, "storage_order": 0, "dilations": 1, "strides": 1, "pads": 0},
    "AveragePool": {"auto_pad": "NOTSET", "ceil_mode": 0, "count_include_pad": 0, "strides": 1, "pads": 0},
    "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0},
    "Gather": {"axis": 0},
}


def _leave_out_defaults(graph: Any) -> None:
    """Take out attributes that say what holds anyway."""
    for node in graph:
        for name, default in _DEFAULTS.get(node.op_type, {}).items():
            attribute = node.attributes.get(name)
            if attribute is None:
                continue
            value = attribute.value
            if all(v == default for v in value) if isinstance(value, list | tuple) else value == default:
                del node.attributes[name]


def _name(graph: Any) -> None:
    """Name nodes after the module they come from, stored tensors as in the model, and what nodes give by number."""
    count: Counter[str] = Counter()
    outputs = {id(value) for value in graph.outputs}
    graph.metadata_props.clear()
    given = 0
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "['']"))
        scope = next((s for s in reversed(scopes[:-1]) if s), "").replace(".sampled", "")
        stem = f"{scope}/{node.op_type}" if scope else node.op_type
        count[stem] += 1
        node.name = stem if count[stem] == 1 else f"{stem}_{count[stem]}"
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            if id(value) not in outputs:
                value.shape = value.type = None  # a line each in the file; runtimes find them out
                value.name, given = f"t{given}", given + 1
    for i, value in enumerate(list(graph.initializers.values())):
        value.metadata_props.clear()
        value.shape = value.type = None  # their tensors say it
        known = "." in value.name and not value.name.startswith("val_")
        value.name = value.name.replace(".sampled", "") if known else f"constant_{i}"
    for i, value in enumerate(graph.outputs):
        value.name = "output" if len(graph.outputs) == 1 else f"output_{i}"
