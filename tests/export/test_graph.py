"""Passes over ONNX graphs: onnx's own reference gives the same before and after, and the graph is as wanted."""

import copy

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnx_ir = pytest.importorskip("onnx_ir")

from onnx.reference import ReferenceEvaluator  # noqa: E402

from autosample.export.graph import tidy  # noqa: E402

# name -> (nodes, operators afterwards)
CASES = {
    "slices along two axes": ("a = Slice(x, one, minus, axis1, one) y = Slice(a, one, minus, axis3, one)", ["Slice"]),
    "slices along one axis": (
        "a = Slice(x, one, minus, axis1, one) y = Slice(a, one, minus, axis1, one)",
        ["Slice", "Slice"],
    ),
    "a slice that is used twice": (
        "a = Slice(x, one, minus, axis1, one) b = Slice(a, one, minus, axis3, one) c = ReduceMax(a) y = Add(b, c)",
        ["Slice", "Slice", "ReduceMax", "Add"],
    ),
    "reshapes in a row": ("a = Reshape(x, flat) y = Reshape(a, pairs)", ["Reshape"]),
    "a reshape that takes a size over": ("a = Reshape(x, pairs) y = Reshape(a, kept)", ["Reshape", "Reshape"]),
    "a reshape that is used twice": (
        "a = Reshape(x, flat) b = Reshape(a, pairs) c = ReduceMax(a) y = Add(b, c)",
        ["Reshape", "Reshape", "ReduceMax", "Add"],
    ),
    "a pool before its ReLU": (
        "a = Conv(x, w) b = MaxPool <kernel_shape = [1, 2]> (a) c = Relu(b) y = Neg(c)",
        ["Conv", "Relu", "MaxPool", "Neg"],
    ),
    "a pool that is used twice": (
        "a = Conv(x, w) b = MaxPool <kernel_shape = [1, 2]> (a) c = Relu(b) y = Add(b, c)",
        ["Conv", "MaxPool", "Relu", "Add"],
    ),
    "a pool of something else": (
        "a = Neg(x) b = MaxPool <kernel_shape = [1, 2]> (a) c = Relu(b) y = Neg(c)",
        ["Neg", "MaxPool", "Relu", "Neg"],
    ),
    "attributes that say what holds anyway": (
        "a = Conv <strides = [1, 1], dilations = [1, 1], pads = [0, 0, 0, 0], group = 1> (x, w) y = Neg(a)",
        ["Conv", "Neg"],
    ),
    "a flat image between signals": (
        "a = Unsqueeze(x, axis1) b = Relu(a) c = Squeeze(b, axis1) y = Neg(c)",
        ["Relu", "Neg"],
    ),
    "a flat image that is given": ("a = Unsqueeze(x, axis1) y = Squeeze(a, axis1)", ["Unsqueeze", "Squeeze"]),
    "a flat image that is used": (
        "a = Unsqueeze(x, axis1) b = Relu(a) c = Squeeze(b, axis1) d = ReduceMax(b) y = Add(c, d)",
        ["Unsqueeze", "Relu", "Squeeze", "ReduceMax", "Add"],
    ),
    "attributes that matter": ("a = Conv <strides = [2, 1], pads = [0, 1, 0, 1]> (x, w) y = Neg(a)", ["Conv", "Neg"]),
}


def graph_of(nodes: str):
    text = f"""<ir_version: 10, opset_import: ["" : 18]>
    g (float[2, 4, 3, 6] x) => (float y) {{
      one = Constant <value = int64[1] {{1}}> ()
      minus = Constant <value = int64[1] {{-1}}> ()
      axis1 = Constant <value = int64[1] {{1}}> ()
      axis3 = Constant <value = int64[1] {{3}}> ()
      flat = Constant <value = int64[1] {{-1}}> ()
      pairs = Constant <value = int64[2] {{-1, 2}}> ()
      kept = Constant <value = int64[2] {{0, -1}}> ()
      {nodes}
    }}"""
    proto = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).normal(size=(3, 4, 2, 2)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    for node in [n for n in proto.graph.node if n.op_type == "Constant"]:
        tensor = node.attribute[0].t
        tensor.name = node.output[0]
        proto.graph.initializer.append(tensor)
        proto.graph.node.remove(node)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return proto


@pytest.mark.parametrize("name", CASES)
def test_a_tidy_graph_computes_the_same(name):
    nodes, wanted = CASES[name]
    proto = graph_of(nodes)
    model = onnx_ir.from_proto(copy.deepcopy(proto))  # it shares tensors otherwise, and their names
    tidy(model.graph)
    tidied = onnx_ir.to_proto(model)
    assert [node.op_type for node in tidied.graph.node] == wanted
    x = np.random.default_rng(1).normal(size=(2, 4, 3, 6)).astype(np.float32)
    (before,), (after,) = (ReferenceEvaluator(p).run(None, {p.graph.input[0].name: x}) for p in (proto, tidied))
    np.testing.assert_array_equal(np.asarray(before), np.asarray(after))


@pytest.mark.parametrize(
    ("sizes", "shapes", "wanted"),
    [
        ("n rest", '"n", "t", 6 -> "n", "6*t"', [0, -1]),
        ("n rest six", '"n", "6*t" -> "n", "t", 6', [0, -1, 6]),
        ("rest n six", '"n", "6*t" -> "t", "n", 6', None),  # two sizes that nothing says
    ],
)
def test_computed_shapes_become_constant(sizes, shapes, wanted):
    """Where at most one size is neither known nor that of the same axis before."""
    before, after = shapes.split(" -> ")
    made = " ".join(f"{name} = Identity({name}0)" for name in sizes.split())
    text = f"""<ir_version: 10, opset_import: ["" : 18]>
    g (float[{before.replace('"', "")}] x, int64[1] n0, int64[1] rest0, int64[1] six0) => (float y) {{
      {made} shape = Concat <axis = 0> ({", ".join(sizes.split())}) a = Reshape(x, shape) y = Neg(a)
    }}""".replace("6*t", "sixt")
    proto = onnx.parser.parse_model(text)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    model = onnx_ir.from_proto(proto)
    values = [model.graph.inputs[0], next(n for n in model.graph if n.op_type == "Reshape").outputs[0]]
    for value, shape in zip(values, (before, after), strict=True):
        value.shape = onnx_ir.Shape([int(s) if s.isdigit() else s.strip('"') for s in shape.split(", ")])
    tidy(model.graph)
    reshape = next(n for n in model.graph if n.op_type == "Reshape")
    constant = reshape.inputs[1].const_value
    assert (None if constant is None else constant.numpy().tolist()) == wanted
    assert [n.op_type for n in model.graph] == (
        ["Reshape", "Neg"] if wanted else [*["Identity"] * 3, "Concat", "Reshape", "Neg"]
    )
