"""Int8 arithmetic: onnxruntime's static quantisation of an exported graph, whose weights stay as small as they were.

onnxruntime quantises a weight per filter only if the file stores it. So the operators that compute weights from what is
stored run once and are left out of the graph that it quantises. Then they are put back, with a QuantizeLinear behind
them. A runtime runs both when it loads the file, and then convolves with integers.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from autosample.coding.written import MOST
from autosample.export.constants import (
    STORED,
    Constants,
    fill,
    find_constants,
    proportional,
    prune,
    rename,
    repeated,
    size,
    store_constants,
)  # fmt: skip
from autosample.system.quiet import quiet

_QUANTISED = "_quantized"  # onnxruntime's suffix
_ON_GRID = 1e-2  # share of a step by which a weight may miss a whole multiple of it
# What is computed with 8 bits. Not softmax and norms, whose results need more than 256 levels, nor transposed
# convolutions, which onnxruntime only computes in floating point.
_OPERATORS = (
    "Add", "AveragePool", "Clip", "Concat", "Conv", "Flatten", "Gather", "Gemm", "GlobalAveragePool",
    "LeakyRelu", "MatMul", "MaxPool", "Mul", "Pad", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Split",
    "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip


def quantise(model: Any, batches: Sequence[tuple[Tensor, ...]], steps: dict[str, np.ndarray]) -> Any:
    """An ONNX model with quantised activations and weights.

    Args:
        model: A `ModelProto` in float32, whose operators are named after their layers.
        batches: Inputs to find the ranges of activations on.
        steps: By layer, the step (or the step for each filter) that its weights are whole multiples of, if they are:
            `()` or `(N,)`.
    """
    import onnx

    constants = find_constants(model)
    dense = store_constants(model, constants)
    with tempfile.TemporaryDirectory() as folder, quiet("root"):
        before, after = Path(folder, "dense.onnx"), Path(folder, "int8.onnx")
        onnx.save(dense, before)
        _run_quantizer(before, after, _reader(dense, batches), _overrides(dense, constants, steps))
        made = onnx.load(after)
    _put_back(made.graph, constants)
    _derive_scales(made.graph, constants)
    repeated(made.graph)
    prune(made.graph)
    fill(made.opset_import, model.opset_import)
    made.producer_name, made.producer_version = model.producer_name, model.producer_version
    return made


def _reader(dense: Any, batches: Sequence[tuple[Tensor, ...]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    names = [value.name for value in dense.graph.input]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[tuple[Tensor, ...]] = iter(batches)

        def get_next(self) -> Any:
            args = next(self.left, None)
            return None if args is None else {n: x.contiguous().numpy() for n, x in zip(names, args, strict=True)}

    return Reader()


def _run_quantizer(before: Path, after: Path, reader: Any, overrides: dict[str, list]) -> None:
    """onnxruntime's static quantisation, with the types that it recommends for x86 processors.

    The reduced range of weights is for those without VNNI. They would get wrong results otherwise, without a notice.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        before, after, reader, quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, op_types_to_quantize=list(_OPERATORS),
        extra_options={"TensorQuantOverrides": overrides},
    )  # fmt: skip


def _overrides(dense: Any, constants: Constants, steps: dict[str, np.ndarray]) -> dict[str, list]:
    """Scales of the weights that lie on a grid already, so that they are not rounded a second time."""
    made = {}
    for node in dense.graph.node:
        step = steps.get(node.name.partition("/")[0])
        name = node.input[1].removesuffix(STORED) if len(node.input) > 1 else ""
        if step is None or name not in constants.values:
            continue
        rows_first = node.op_type == "Conv" or any(a.name == "transB" and a.i for a in node.attribute)
        weight, axis = constants.values[name], 0 if rows_first else 1
        if weight.ndim < 2 or step.size not in (1, weight.shape[axis]):
            continue
        step = np.broadcast_to(step, (weight.shape[axis],))
        levels = np.moveaxis(weight, axis, -1) / np.where(step > 0, step, 1)
        if np.abs(levels).max() < MOST + 0.5 and np.abs(levels - levels.round()).max() < _ON_GRID:
            made[name + STORED] = [{"axis": axis, "scale": float(s) or 1.0, "zero_point": 0} for s in step]
    return made


def _derive_scales(graph: Any, constants: Constants) -> None:
    """Compute scales of weights and biases from each other, or from a stored scale, instead of storing each."""
    import onnx

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes: dict[str, Any] = {}

    def derive(name: str, source: str, sizes: str) -> None:
        known = [onnx.numpy_helper.to_array(tensors[key]) if key in tensors else None for key in (name, source)]
        factor = None if known[0] is None or known[1] is None else proportional(known[0], known[1])
        if factor is None or name in nodes:
            return
        if sizes != source:
            nodes[sizes] = onnx.helper.make_node("Abs", [source], [sizes], f"{sizes}/Abs")
        graph.initializer.append(onnx.numpy_helper.from_array(factor, f"{name}.factor"))
        nodes[name] = onnx.helper.make_node("Mul", [sizes, f"{name}.factor"], [name], f"{name}/Mul")

    for name in constants.values:
        for source in constants.sources(name)[1]:
            derive(f"{name}{STORED}_scale", source, f"{source}.sizes")
    scales = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "DequantizeLinear"}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm") and len(node.input) > 2:
            weight, bias = (scales.get(name, "") for name in node.input[1:])
            derive(bias, weight, weight)
    fill(graph.initializer, [tensor for tensor in graph.initializer if tensor.name not in nodes])
    fill(graph.node, [*nodes.values(), *graph.node])


def _put_back(graph: Any, constants: Constants) -> None:
    """Compute the constants again where that takes fewer bytes than storing them."""
    import onnx

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    back = {node.input[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    again: set[str] = set()
    plain: dict[str, str] = {}
    rounding, wide = [], onnx.TensorProto.INT32  # biases: QuantizeLinear has no such type
    for name in constants.values:
        nodes, sources = constants.sources(name)
        cost = size(*nodes.values(), *sources.values())
        for there in (name + STORED, name + STORED + _QUANTISED):
            if there not in tensors or size(tensors[there]) <= cost or tensors[there].data_type == wide:
                continue
            del tensors[there]
            again |= nodes.keys()
            tensors |= sources
            if there.endswith(_QUANTISED):
                inputs = [name, *back[there].input[1:]]
                node = onnx.helper.make_node("QuantizeLinear", inputs, [there], f"{name}/QuantizeLinear")
                node.attribute.extend(back[there].attribute)
                rounding.append(node)
            else:
                plain[there] = name
    first = [node for node in constants.nodes if node.output[0] in again]
    fill(graph.initializer, tensors.values())
    fill(graph.node, [*first, *rounding, *graph.node])
    rename(graph, plain)
