"""Fewer bits for what a model stores: summaries at 2 to 8 bits per number, everything else in half precision."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from autosample.coding.quantizer import Quantizer
from autosample.coding.quantizers import LONGEST_VECTOR, QUANTIZERS, CodebookQuantizer
from autosample.errors import QuantizationError, hint
from autosample.model.convert import harden_
from autosample.nn import CodedLayer, Compressed, compressed_layers, outer_modules
from autosample.nn.kinds import is_kind
from autosample.nn.stored import compact_state, own_tensors, store_as
from autosample.sampling.spec import spec
from autosample.system.difference import largest_difference, relative_error
from autosample.system.tables import Printed, make_table

if TYPE_CHECKING:
    from rich.table import Table

Method = Literal["linear", "codebook", "per-filter", "ternary"]
Half = Literal["fp16", "bf16"]

_HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class QuantizedTensor:
    """One quantised tensor.

    Attributes:
        name: Name of the tensor; `(rest)` for everything stored in half precision.
        method, bits: Method, and bits per stored number.
        numbers: Count of numbers.
        before, after: Size in a file, levels included [bytes].
        error: `‖x − x̂‖ / ‖x‖`.
        worst: The largest `|x − x̂|`.
    """

    name: str
    method: str
    bits: int
    numbers: int
    before: int
    after: int
    error: float
    worst: float


@dataclass(frozen=True, repr=False)
class QuantizationReport(Printed):
    """Result of quantising; prints as a table.

    Attributes:
        rows: One per tensor; `(rest)` for everything stored in half precision.
        before, after: Size of the model in a file, without the file's header [bytes].
    """

    rows: tuple[QuantizedTensor, ...]
    before: int
    after: int

    @property
    def ratio(self) -> float:
        """`before / after`; `autosample.report` compares with the dense model."""
        return self.before / self.after if self.after else 1.0

    def __repr__(self) -> str:
        return f"<QuantizationReport: {len(self.rows)} tensors, {self.before:,} bytes before, {self.after:,} after>"

    def __rich__(self) -> "Table":
        rows = [
            (r.name, r.method, str(r.bits), f"{r.numbers:,}", f"{r.before:,}", f"{r.after:,}", f"{r.error:.2e}",
             f"{r.worst:.2e}")
            for r in self.rows
        ]  # fmt: skip
        total = ("model", "", "", "", f"{self.before:,}", f"{self.after:,}", "", "")
        heads = ("tensor", "method", "bits", "numbers", "before", "after", "error", "worst")
        return make_table(heads, rows, left=("tensor", "method"), last=total)


@torch.no_grad()
def quantize_(
    model: nn.Module,
    bits: int = 8,
    *,
    method: Method = "linear",
    layers: Literal["sampled", "all"] = "sampled",
    rest: Half | None = None,
    vector: int = 1,
) -> QuantizationReport:
    """Quantise what a model stores, in place. The model is hardened first, and computes with the quantised values.

    Each summary (and each mixing matrix of denser sampling) gets its own levels: `2**bits` evenly spaced ones between
    its minimum and maximum (WSNet-Q of Jin et al. 2018, FSNet-WQ of Yang et al. 2020), or a codebook found by k-means
    (Deep k-Means). Layers that share a summary still share it. Nothing is trained; to train with the same levels first,
    use `autosample.training.FakeQuantize`.

    Args:
        model: A converted model, or a single layer.
        bits: Bits per stored number, 2 to 8.
        method: `linear`, `codebook`, or `per-filter`: `linear`, but with levels for each filter of layers that are not
            compressed. A summary has no filters, and gets `linear`. `ternary`: −α, 0 and α, at 2 bits.
        layers: `sampled`: the compressed layers. `all`: also all other convolutions and linear layers, with each number
            of their weight at a level.
        rest: Precision in which all other floating-point numbers (norms, biases, dense weights) are stored. Computation
            stays in the model's precision.
        vector: How many consecutive numbers share a code of `bits` bits, for `codebook` (DKM's sub-vectors): 4 bits and
            vectors of 8 are half a bit a number.

    Returns:
        Sizes and errors, per tensor and in total.

    Raises:
        QuantizationError: An argument is unusable, the model has no layer to quantise, or a number is not finite or
            does not fit into half precision.
    """
    check_quantization(bits, method, layers, rest, vector)
    if hasattr(model, "deployment"):
        raise QuantizationError("a deployed model cannot be quantised: quantise the original, then deploy it")
    before = _bytes(model)
    if layers == "all":
        code_dense_(model)
    if not compressed_layers(model):
        raise QuantizationError(
            'quantize_ needs a converted model, got a dense one: call convert_ first, or pass layers="all"'
        )
    harden_(model)
    originals = {name: t.detach().clone() for name, t in _quantised(model)}
    attach_quantizers(model, bits, method, vector=vector)
    fix_quantizers_(model)
    rows = [_row(name, layer, key, originals) for name, layer, key in _parameters(model)]
    rows += _to_half(model, _HALVES[rest]) if rest is not None else []
    return QuantizationReport(tuple(row for row in rows if row is not None), before, _bytes(model))


def check_quantization(bits: int, method: str, layers: str, rest: str | None, vector: int = 1) -> None:
    """Raise `QuantizationError` unless `quantize_` accepts these arguments."""
    if not isinstance(bits, int) or isinstance(bits, bool) or not 2 <= bits <= 8:
        raise QuantizationError(f"bits must be a whole number from 2 to 8, got {bits!r}: 8 keeps most of the accuracy")
    if method == "ternary" and bits != 2:
        raise QuantizationError(f"ternary numbers take 2 bits, got bits={bits}: pass bits=2")
    if not isinstance(vector, int) or isinstance(vector, bool) or not 1 <= vector <= LONGEST_VECTOR:
        raise QuantizationError(f"vector must be a whole number from 1 to {LONGEST_VECTOR}, got {vector!r}: 4 is usual")
    if vector > 1 and method != "codebook":
        raise QuantizationError(f"a vector of numbers needs a codebook, got method {method!r}: use codebook")
    for name, value, known in (
        ("method", method, tuple(QUANTIZERS)),
        ("layers", layers, ("sampled", "all")),
        ("rest", rest, (None, *_HALVES)),
    ):
        if value not in known:
            words = [str(k) for k in known]
            raise QuantizationError(
                f"{name} must be one of {', '.join(words)}, got {value!r}: {hint(str(value), words)}"
            )


def attach_quantizers(
    model: nn.Module, bits: int, method: Method, *, temperature: float = 0.1, vector: int = 1
) -> list[tuple[Compressed, str]]:
    """Give each coded parameter of compressed layers a quantizer, which waits for its start. Shared parameters get one.

    Returns the layers with the names of the parameters.
    """
    made: dict[int, Quantizer] = {}
    found = [(layer, key) for _, layer, key in _parameters(model)]
    for layer, key in found:
        parameter: Tensor = getattr(layer, key)
        before = layer.quantizer(key)
        kind = "linear" if method == "per-filter" and not isinstance(layer, CodedLayer) else method
        same = before is not None and (before.method, before.bits, getattr(before, "vector", 1)) == (kind, bits, vector)
        if before is not None and same and before.holds(parameter):
            made[id(parameter)] = before  # already quantised: the same levels again
        if id(parameter) not in made:
            made[id(parameter)] = (
                CodebookQuantizer(bits, parameter.device, temperature, vector)
                if kind == "codebook"
                else QUANTIZERS[kind](bits, parameter.device)
            )
            made[id(parameter)].prepare(parameter)
        layer.quantise_with(key, made[id(parameter)])
    return found


def fix_quantizers_(model: nn.Module) -> None:
    """Fix the levels of everything that has a quantizer. Offsets become integers first."""
    layers = list(compressed_layers(model).values())
    for layer in layers:
        layer.freeze_()
        for name in layer.quantizers or ():
            layer.start_levels(name)
    for layer in layers:
        layer.fix_levels_()


def _parameters(model: nn.Module) -> Iterator[tuple[str, Compressed, str]]:
    """The parameters that get a quantizer: name of the layer, the layer, and the parameter's name in it."""
    for name, layer in compressed_layers(model).items():
        for key in layer.coded:
            if getattr(layer, key) is not None:
                yield name, layer, key


def _quantised(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    seen: set[int] = set()
    for name, layer, key in _parameters(model):
        values: Tensor = getattr(layer, key)
        if id(values) in seen:
            continue
        seen.add(id(values))
        full = f"{name}.{key}" if name else key
        if not values.is_meta and not values.isfinite().all():
            raise QuantizationError(f"numbers must be finite, got NaN or infinity in {full}: train again")
        yield full, values


def _row(name: str, layer: Compressed, key: str, originals: dict[str, Tensor]) -> QuantizedTensor | None:
    full = f"{name}.{key}" if name else key
    quantizer, now = layer.quantizer(key), getattr(layer, key)
    if full not in originals:  # shared, and listed under its first name
        return None
    assert quantizer is not None
    old = originals[full]
    return QuantizedTensor(
        full, quantizer.method, quantizer.bits, now.numel(), old.nbytes, quantizer.stored_bytes(now.shape),
        *_errors([(old, now)]),
    )  # fmt: skip


def _errors(pairs: list[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Relative and largest error over all pairs of old and new."""
    if not pairs or pairs[0][0].is_meta:
        return 0.0, 0.0
    old, new = (torch.cat([t.double().flatten() for t in side]) for side in zip(*pairs, strict=True))
    return relative_error(old, new), largest_difference([old], [new]).absolute


def _to_half(model: nn.Module, dtype: torch.dtype) -> list[QuantizedTensor | None]:
    """Round everything else, and note that files may store it in this precision."""
    pairs: list[tuple[Tensor, Tensor]] = []
    for prefix, module in outer_modules(model):
        for name, tensor in own_tensors(module).items():
            coded = isinstance(module, Compressed) and module.quantizer(name) is not None
            if coded or tensor.dtype not in (torch.float32, torch.float64):
                continue
            rounded = tensor.to(dtype).to(tensor.dtype)
            if not tensor.is_meta and not torch.equal(rounded.isfinite(), tensor.isfinite()):
                raise QuantizationError(
                    f"numbers must fit into {str(dtype)[6:]}, got {float(tensor.abs().max()):.3g} in "
                    f'{prefix}.{name}: use rest="bf16"'
                )
            pairs.append((tensor.detach().clone(), rounded))
            tensor.copy_(rounded)
            store_as(module, name, dtype)
    if not pairs:
        return []
    count, old = sum(new.numel() for _, new in pairs), sum(a.nbytes for a, _ in pairs)
    return [QuantizedTensor("(rest)", str(dtype)[6:], 16, count, old, count * dtype.itemsize, *_errors(pairs))]


def code_dense_(model: nn.Module) -> None:
    """Turn dense convolutions and linear layers into layers that can have quantizers; outputs stay equal."""
    uses: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    for name, layer in list(model.named_modules()):
        if not is_kind(layer) or isinstance(layer, Compressed):
            continue
        weight = layer._parameters.get("weight")
        lazy = isinstance(weight, nn.UninitializedParameter)
        if weight is None or lazy or uses[id(weight)] > 1 or not weight.is_floating_point() or not weight.numel():
            continue
        CodedLayer.take_over(layer, spec("dense"), name)


def _bytes(model: nn.Module) -> int:
    return sum(t.nbytes for t in compact_state(model).values())
