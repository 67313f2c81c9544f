"""The part of an ONNX graph that depends on no input: run once, left out, and put back where it is smaller."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Marks the results of constant operators while they are stored; onnxruntime adds digits to names of copies.
STORED = ".stored"
# Tensors of fewer numbers stay stored: an operator that makes them would be larger.
_SMALL = 64


@dataclass(frozen=True)
class Constants:
    """The operators that depend on no input.

    Attributes:
        nodes: These operators, in order.
        tensors: Stored tensors of the whole graph by name.
        values: Their results that other operators use.
    """

    nodes: Sequence[Any]
    tensors: dict[str, Any]
    values: dict[str, np.ndarray]

    def sources(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The operators and the stored tensors that a value is computed from."""
        maker = {out: node for node in self.nodes for out in node.output}
        nodes: dict[str, Any] = {}
        tensors: dict[str, Any] = {}
        waiting = [name]
        while waiting:
            name = waiting.pop()
            node = maker.get(name)
            if node is None:
                tensors |= {name: self.tensors[name]} if name in self.tensors else {}
            elif node.output[0] not in nodes:
                nodes[node.output[0]] = node
                waiting.extend(node.input)
        return nodes, tensors


def find_constants(model: Any) -> Constants:
    """The constant part of a `ModelProto`, with its results."""
    import onnx
    import onnxruntime

    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    known, nodes, rest, last = set(tensors), [], [], {value.name for value in graph.output}
    for node in graph.node:
        plain = last.isdisjoint(node.output) and not any(attribute.HasField("g") for attribute in node.attribute)
        fixed = plain and all(name in known or not name for name in node.input)
        (nodes if fixed else rest).append(node)
        known.update(node.output if fixed else ())
    made = {name for node in nodes for name in node.output}
    wanted = sorted({name for node in rest for name in node.input if name in made})
    if not wanted:
        return Constants((), tensors, {})
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.node[:], part.graph.input[:], part.graph.output[:]
    part.graph.node.extend(nodes)
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Constants(nodes, tensors, dict(zip(wanted, map(np.asarray, session.run(wanted, {})), strict=True)))


def store_constants(model: Any, constants: Constants) -> Any:
    """A copy of a model that stores the results of its constant operators, under names that end in `STORED`."""
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph, gone = made.graph, {node.output[0] for node in constants.nodes}
    fill(graph.node, [node for node in graph.node if node.output[0] not in gone])
    rename(graph, {name: name + STORED for name in constants.values})
    graph.initializer.extend(onnx.numpy_helper.from_array(v, k + STORED) for k, v in constants.values.items())
    prune(graph)
    return made


def fill(field: Any, items: Iterable[Any]) -> None:
    """Replace the contents of a repeated field."""
    items = list(items)
    del field[:]
    field.extend(items)


def rename(graph: Any, names: dict[str, str]) -> None:
    """Rename tensors wherever operators use or make them."""
    for node in graph.node:
        for field in (node.input, node.output):
            fill(field, [names.get(name, name) for name in field])


def prune(graph: Any) -> None:
    """Remove stored tensors that nothing uses."""
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    fill(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in used])


def size(*parts: Any) -> int:
    """Bytes that operators and tensors take in a file."""
    return sum(part.ByteSize() for part in parts)


def repeated(graph: Any) -> None:
    """Let operators make tensors whose numbers are all equal, and store equal tensors once."""
    import onnx

    nodes, tensors, seen, names = [], [], {}, {}
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        key = (tensor.data_type, tuple(tensor.dims), values.tobytes())
        if seen.setdefault(key, tensor.name) != tensor.name:
            names[tensor.name] = seen[key]
        elif values.size >= _SMALL and (values == values.flat[0]).all():
            shape = onnx.numpy_helper.from_array(np.array(values.shape, np.int64), f"{tensor.name}.shape")
            value = onnx.numpy_helper.from_array(values.reshape(-1)[:1])
            tensors.append(shape)
            nodes.append(onnx.helper.make_node("ConstantOfShape", [shape.name], [tensor.name], value=value))
        else:
            tensors.append(tensor)
    fill(graph.initializer, tensors)
    fill(graph.node, [*nodes, *graph.node])
    rename(graph, names)


def proportional(target: np.ndarray, source: np.ndarray) -> np.ndarray | None:
    """The factor `c` of `target = c · |source|`, or `None`."""
    if target.shape != source.shape or source.dtype != np.float32 or target.size < _SMALL:
        return None
    sizes = np.abs(source.astype(np.float64))
    there = sizes > 0
    if not there.any():
        return None
    factor = np.array(np.median(target[there] / sizes[there]), np.float32)
    return factor if np.allclose(factor * sizes, target, rtol=1e-6, atol=0) else None
