"""Sizes of sum-product layers, and their plan for inference."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from autosample.coding.ternary import IN_A_BYTE, ternary_bytes
from autosample.errors import SpecError
from autosample.nn.facts import Facts
from autosample.reuse.after import After
from autosample.reuse.planner import MARGIN, Plan, timed
from autosample.reuse.sum_product import Patches, SumProductPlan
from autosample.reuse.timings import signature
from autosample.sampling.geometry import kind_of
from autosample.sampling.rules.products import ProductOptions
from autosample.sampling.spec import Spec

#: bits of a number that a ratio counts
BITS = 32


def patches_of(layer: Any, options: ProductOptions) -> Patches:
    """Where a sum-product layer that takes the place of this one reads and writes."""
    if isinstance(layer, nn.Linear):
        return Patches()
    padding = tuple(layer._reversed_padding_repeated_twice)
    sizes = (tuple(layer.kernel_size), tuple(layer.stride), tuple(layer.dilation), padding)
    return Patches(*sizes, layer.padding_mode, options.patch, layer.groups, options.groups)


def products_of(spec: Spec, shape: tuple[int, ...], entries: int, multiple: int = 1) -> int:
    """`r`, the multiplications for an output patch, by the option `products` or by the ratio.

    Args:
        spec: Spec of the layer.
        shape: Shape of the dense weight.
        entries: Entries of both matrices for each multiplication; 20 of them count as one number.
        multiple: Of which `r` must be a multiple.

    Raises:
        SpecError: The spec sets no size.
    """
    options = spec.settings
    if options.products is not None:
        count = options.products * shape[0]
    elif spec.ratio is not None:
        fixed, each = (shape[0], 1) if patch_of(spec, shape) == 1 else (0, 2)
        count = (math.prod(shape) / spec.ratio - fixed) / (entries * 8 / IN_A_BYTE / BITS + each)
    else:
        raise SpecError('rule strassen needs a size, got none: pass ratio=8 or options={"products": 1}')
    return max(round(count / multiple), 1) * multiple


def patch_of(spec: Spec, shape: tuple[int, ...]) -> int:
    """Side of an output patch; a linear layer has none."""
    return spec.settings.patch if len(shape) > 2 else 1


def product_facts(layer: Any, entries: Sequence[int]) -> Facts:
    """What a sum-product layer stores; `entries` are those of its matrices."""
    more = layer.products if not layer.has_weight else 0 if layer.had_bias else layer.shape[0]
    numbers = -(-8 * sum(map(ternary_bytes, entries)) // BITS) + layer.products + more
    patch = f", patches of {layer.patches.patch}" if layer.patches.patch > 1 else ""
    notes = (f"{layer.products} products{patch}", *layer.coding_notes())
    return Facts(layer.spec.preset, math.prod(layer.shape), numbers, notes=notes)


def product_plan(
    layer: Any, x: Tensor | None, after: After, dense: Callable[[], nn.Module], *, measure: bool
) -> tuple[Plan, nn.Module | None]:
    """The plan of a hardened sum-product layer, and its module; arguments as for `Compressed.plan`."""
    own = layer.tensors(layer.scale) | {"factors": after.scale, "bias": after.shift}
    made = SumProductPlan(layer.patches, **own, relu=after.relu, pool=after.pool)
    saving = math.prod(layer.shape) * math.prod(layer.patches.corners) / layer.each_patch()
    if not layer.has_weight:
        return Plan("products", "patches have no dense weight", saving=saving), made
    if x is None or (not measure and saving * MARGIN < 1):
        return Plan("dense", f"products are predicted at {saving:.2f}x"), None
    if not measure:
        return Plan("products", f"{saving:.1f}x predicted", saving=saving), made
    sizes = (layer.patches, layer.products, layer.shape, tuple(x.shape))
    key = signature(x.device, x.dtype, *sizes, after.relu, after.pool)
    return timed(key, {"products": made}, dense, x, {"products": saving})


def planned_numbers(spec: Spec, shape: tuple[int, ...], bits: int) -> int:
    """Count of numbers of `bits` bits that take the place of a weight; see `Compressed.planned`."""
    spec, ones = spec.for_kind(kind_of(shape[2:])), (1,) * len(shape[2:])
    # neither the stride nor the groups of the layer are known here
    p = Patches(shape[2:], ones, ones, patch=patch_of(spec, shape))
    entries = shape[1] // spec.settings.groups * math.prod(p.window), shape[0] * math.prod(p.corners)
    count = products_of(spec, shape, sum(entries))
    numbers = count + (shape[0] if p.patch == 1 else count)
    return -(-(8 * sum(ternary_bytes(count * each) for each in entries) + BITS * numbers) // bits)


def nonzero(matrices: list[Tensor]) -> int:
    """Entries that are not zero; all, for matrices without values."""
    return sum(m.numel() if m.is_meta else int(m.count_nonzero()) for m in matrices)
