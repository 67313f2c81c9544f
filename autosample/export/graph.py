"""Passes over an ONNX graph: fewer and faster operators, no words that say what holds anyway, readable names."""

import ast
from collections import Counter
from typing import Any

import numpy as np

_SCOPES = "pkg.torch.onnx.name_scopes"


def tidy(graph: Any) -> None:
    """All passes, on an `onnx_ir.Graph`; what it computes stays the same."""
    join_signals(graph)
    fix_reshapes(graph)
    merge_reshapes(graph)
    merge_slices(graph)
    relu_first(graph)
    leave_out_defaults(graph)
    name_after_layers(graph)


# They do the same to every number, for any shape.
_UNARY = ("Relu", "LeakyRelu", "Elu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu", "Erf", "Identity")


def join_signals(graph: Any) -> None:
    """Take out `Unsqueeze(f(Squeeze(x)))` over one axis, or the reverse: signals stay as they are between layers."""
    for node in list(graph):
        reverse = {"Unsqueeze": "Squeeze", "Squeeze": "Unsqueeze"}.get(node.op_type)
        if reverse is None or _axes(node) is None or node.outputs[0].is_graph_output():
            continue
        first, between = node, []
        while (before := first.inputs[0].producer()) is not None and before.op_type in _UNARY:
            between.append(first := before)
        shared = any(len(n.outputs[0].uses()) > 1 or n.outputs[0].is_graph_output() for n in between)
        if shared or before is None or before.op_type != reverse or _axes(node) != _axes(before):
            continue
        first.replace_input_with(0, before.inputs[0])
        for step in between:
            step.outputs[0].shape = None
        node.outputs[0].replace_all_uses_with(node.inputs[0])
        for done in (node, before):
            if not done.outputs[0].uses() and not done.outputs[0].is_graph_output():
                graph.remove(done, safe=True)


def _axes(node: Any) -> list[int] | None:
    """The constant that a node has for its second input: axes, or a shape."""
    value = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
    return None if value is None else value.numpy().reshape(-1).tolist()


def fix_reshapes(graph: Any) -> None:
    """Give reshapes a constant for their shape where it is computed but need not be.

    At most one size may be neither known nor that of the same axis before.
    """
    for node in list(graph):
        if node.op_type != "Reshape" or _axes(node) is not None or not node.inputs[1].producer():
            continue
        before, after = node.inputs[0].shape, node.outputs[0].shape
        if before is None or after is None or any(size == 0 for size in after if isinstance(size, int)):
            continue
        same = [i < len(before) and str(size) == str(before[i]) != "None" for i, size in enumerate(after)]
        sizes = [s if isinstance(s, int) else 0 if kept else -1 for s, kept in zip(after, same, strict=True)]
        if sizes.count(-1) <= 1:
            made = node.inputs[1].producer()
            node.replace_input_with(1, _constant(graph, np.array(sizes, np.int64)))
            node.attributes.pop("allowzero", None)
            _remove_unused(graph, made)


def _remove_unused(graph: Any, node: Any) -> None:
    """Take out a node whose outputs nothing reads, and then those that it has read from."""
    if any(value.uses() or value.is_graph_output() for value in node.outputs):
        return
    before = {id(p): p for value in node.inputs if value is not None and (p := value.producer()) is not None}
    graph.remove(node, safe=True)
    for producer in before.values():
        _remove_unused(graph, producer)


def merge_reshapes(graph: Any) -> None:
    """Of two reshapes in a row the second one says it all, unless it takes sizes over from the first."""
    for node in list(graph):
        before = node.inputs[0].producer() if node.op_type == "Reshape" else None
        if before is None or before.op_type != "Reshape" or 0 in (_axes(node) or [0]):
            continue
        node.replace_input_with(0, before.inputs[0])
        if not before.outputs[0].uses() and not before.outputs[0].is_graph_output():
            graph.remove(before, safe=True)


def merge_slices(graph: Any) -> None:
    """Two slices in a row along different axes are one: torch's exporter writes one for each axis."""
    for node in list(graph):
        before = node.inputs[0].producer() if node.op_type == "Slice" else None
        if before is None or before.op_type != "Slice" or len(before.outputs[0].uses()) > 1:
            continue
        constants = [[value and value.const_value for value in slice_.inputs[1:]] for slice_ in (before, node)]
        if any(len(c) != 4 or any(v is None for v in c) for c in constants) or before.outputs[0].is_graph_output():
            continue
        first, second = ([v.numpy().reshape(-1) for v in c] for c in constants)
        if set(first[2]) & set(second[2]):
            continue
        node.replace_input_with(0, before.inputs[0])
        graph.remove(before, safe=True)
        for i, parts in enumerate(zip(first, second, strict=True), start=1):
            node.replace_input_with(i, _constant(graph, np.concatenate(parts)))


def _constant(graph: Any, numbers: Any) -> Any:
    """A new stored tensor."""
    import onnx_ir

    value = onnx_ir.val(f"val_new_{len(graph.initializers)}", const_value=onnx_ir.tensor(numbers))
    graph.register_initializer(value)
    return value


def relu_first(graph: Any) -> None:
    """Put a ReLU behind the convolution where a max-pool lies between: runtimes compute it with the convolution."""
    for relu in list(graph):
        pool = relu.inputs[0].producer() if relu.op_type == "Relu" else None
        if pool is None or pool.op_type != "MaxPool" or len(pool.outputs[0].uses()) > 1 or len(pool.outputs) > 1:
            continue
        source, ends = pool.inputs[0], (pool.outputs[0], relu.outputs[0])
        if source.producer() is None or source.producer().op_type != "Conv" or len(source.uses()) > 1:
            continue
        if any(value.is_graph_output() for value in ends):
            continue
        relu.outputs[0].replace_all_uses_with(pool.outputs[0])
        relu.replace_input_with(0, source)
        pool.replace_input_with(0, relu.outputs[0])
        graph.remove(relu)
        graph.insert_before(pool, relu)


# What the standard assumes for a missing attribute; torch's exporter writes it anyway.
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


def leave_out_defaults(graph: Any) -> None:
    """Take out attributes that say what holds anyway."""
    for node in graph:
        for name, default in _DEFAULTS.get(node.op_type, {}).items():
            attribute = node.attributes.get(name)
            if attribute is None:
                continue
            value = attribute.value
            if all(v == default for v in value) if isinstance(value, list | tuple) else value == default:
                del node.attributes[name]


def name_after_layers(graph: Any) -> None:
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
