"""Sum-product layers (StrassenNets, Tschannen et al. 2018): few multiplications between sums with ternary entries.

`vec(C) = W_C [(W_B vec(B)) ⊙ ã]`, where B is what an output patch reads, and C the patch. W_B and W_C become ternary in
three phases: with full precision, with ternary entries and straight-through gradients, and frozen.
"""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autosample.coding.exact import Exact
from autosample.coding.quantizer import Quantizer
from autosample.coding.straight import straight
from autosample.coding.ternary import is_ternary, pack_ternary, ternary, unpack_ternary
from autosample.errors import DAMAGED, ArtifactError, ConversionError, SpecError
from autosample.nn.compressed import Compressed
from autosample.nn.facts import Facts, Operations
from autosample.nn.graph import keep_in_graph
from autosample.nn.kinds import is_plain
from autosample.nn.products import nonzero, patches_of, planned_numbers, product_facts, product_plan, products_of
from autosample.nn.reading import read_spec
from autosample.reuse.after import After
from autosample.reuse.planner import Plan
from autosample.reuse.sum_product import Patches, affine, computed
from autosample.sampling.rules.products import ProductOptions
from autosample.sampling.spec import Spec
from autosample.system.checking import as_int, as_map, take

#: The phases of the training: full precision, ternary, frozen.
FULL, TERNARY, FROZEN = 0, 1, 2
# Factors stay in this range.
_LARGEST = 100.0
_NORMS = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
_MATRICES = ("gather", "spread")


class SumProductLayer(Exact, Compressed):
    """The core of `SumProductConv1d`, `SumProductConv2d` and `SumProductLinear`.

    A hardened layer has no norm any more: it is part of `scale`, and of `shift` or, without patches, of the bias.

    Attributes:
        gather: `W_B`, `(r, M, *taps)`, in full precision; `None` once hardened.
        spread: `W_C`, `(r, N, *patch)`, likewise.
        scale: `ã`, the factors of the sums, `(r,)`.
        shift: What is added before the factors (hardened: after them), `(r,)`, or `None`.
        norm: Batch norm of the sums, without factors of its own; `None` once hardened.
        phase: `FULL`, `TERNARY` or `FROZEN`.
        products, multiple: `r`, the multiplications for an output patch, and of which number it is a multiple.
        patches: Where the layer reads and writes.
        options: The settings of the method.
        had_bias: Whether the dense layer has a bias.
    """

    Options = ProductOptions
    coded = ("scale",)
    prefix = "SumProduct"
    title = "sum_product"
    by_weight = False

    gather: nn.Parameter | None
    spread: nn.Parameter | None
    scale: nn.Parameter
    shift: nn.Parameter | None
    bias: nn.Parameter | None
    norm: nn.modules.batchnorm._BatchNorm | None
    products: int
    multiple: int
    patches: Patches
    options: ProductOptions
    phase: int
    had_bias: bool

    def __init__(self, *args: Any, spec: "Spec | str | Mapping[str, Any]" = "strassen", **given: Any) -> None:
        super().__init__(*args, spec=spec, **given)

    @classmethod
    def unfit(cls, layer: nn.Module, spec: Spec) -> str:
        if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
            return "sum-product layers are convolutions along signals and images, and linear layers"
        return "" if is_plain(type(layer)) else f"{type(layer).__name__} has its own forward pass"

    @classmethod
    def planned(cls, spec: Spec, shape: tuple[int, ...], bits: int = 32) -> int:
        return planned_numbers(spec, shape, bits)

    def make(self, like: Tensor, name: str, products: int | None = None) -> None:
        """Create matrices, factors and norm; `products` is `r`, if it does not follow from the spec."""
        options = self.options = self.spec.settings
        if not isinstance(options, ProductOptions):
            raise SpecError(f"a sum-product layer needs the rule strassen, got {self.spec.rule}: use convert_")
        p = self.patches = patches_of(self, options)
        if self.shape[1] % p.inner:
            raise SpecError(f"groups must divide the {self.shape[1]} channels, got {p.inner}: pass groups=1")
        channels, filters = self.shape[1] // p.inner, self.shape[0] // p.groups
        entries = channels * math.prod(p.window) + filters * math.prod(p.corners)
        self.multiple = p.groups * p.inner
        self.products = r = products or products_of(self.spec, self.shape, entries, self.multiple)
        if r % self.multiple:
            raise SpecError(f"products must be a multiple of the {self.multiple} groups, got {r}: {DAMAGED}")
        like_it = {"device": like.device, "dtype": like.dtype}
        self.gather = nn.Parameter(torch.empty(r, channels, *p.window, **like_it))
        self.spread = nn.Parameter(torch.empty(r, filters, *p.corners, **like_it))
        self.scale, self.shift = nn.Parameter(torch.ones(r, **like_it)), nn.Parameter(torch.zeros(r, **like_it))
        self.norm = _NORMS[p.axes](r, affine=False, **like_it)
        self.phase, self.had_bias = FULL, self.bias is not None
        self.keep("stage", torch.tensor(0, device=like.device), 2)
        for matrix in _MATRICES:
            bits = torch.zeros(getattr(self, matrix).numel(), 2, dtype=torch.bool, device=like.device)
            self.keep_bits(f"{matrix}_entries", bits)
        if not like.is_meta:
            self._draw(float(like.detach().std(unbiased=False)))

    def reset_parameters(self) -> None:
        """Draw the matrices again, such that the weight has the spread of torch's usual one."""
        fan_in = math.prod(self.shape[1:])
        self._draw(1 / math.sqrt(3 * fan_in))
        nn.init.ones_(self.scale)
        if self.shift is not None:
            nn.init.zeros_(self.shift)
        if isinstance(self.bias, Tensor):
            nn.init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    @torch.no_grad()
    def _draw(self, std: float) -> None:
        """Draw the matrices; the layer's outputs then spread like those of a weight of this deviation."""
        if self.gather is not None and self.spread is not None:
            each = self.products / self.patches.groups
            self.gather.normal_(std=1 / math.sqrt(self.gather[0].numel()))
            self.spread.normal_(std=std * math.sqrt(math.prod(self.shape[1:]) / each))

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        p = self.patches
        if p.axes and input.dim() == p.axes + 1:
            return self.forward(input.unsqueeze(0)).squeeze(0)
        gather, spread = self.matrix("gather"), self.matrix("spread")
        if self.norm is None:
            return computed(p, input, self.tensors(self.in_use("scale")))
        if not self.training and self.quantizer("scale") is not None:  # it has levels for factors with the norm
            return computed(p, input, self.tensors(self.scale) | self._with_norm()[0])
        if self.phase == FROZEN and self.training and torch.is_grad_enabled():  # the optimizer still has them
            gather = keep_in_graph(gather, [q for q in (self.gather, self.spread) if q is not None and q.requires_grad])
        y = p.gathered(input, gather)
        flat = y if p.axes else y.reshape(-1, y.shape[-1])
        y = affine(self.norm(flat).view(y.shape), None, self.shift, p.axes)
        y = affine(y, self.factors(), None, p.axes)
        return affine(p.spread(y, spread, tuple(input.shape[2:])), None, self.bias, p.axes)

    def matrix(self, name: str, dtype: torch.dtype | None = None) -> Float[Tensor, "r *rest"]:
        """`gather` or `spread` as the layer uses it now."""
        own = getattr(self, name)
        if self.phase == FROZEN:
            return self.entries(name).to(dtype or self.scale.dtype)
        if self.phase == FULL:
            return own
        entries, scale = ternary(own, self.options.quantizer)
        return straight(own, entries * scale)

    def entries(self, name: str) -> Int[Tensor, "r n *rest"]:
        """The frozen entries of `gather` or `spread`, −1, 0 and 1."""
        corners = self.patches.window if name == "gather" else self.patches.corners
        return (self.kept(f"{name}_entries") - 1).view(self.products, -1, *corners)

    def final_entries(self, name: str) -> Tensor:
        """The entries that freezing would keep now, or has kept."""
        return self.entries(name) if self.phase == FROZEN else ternary(getattr(self, name), self.options.quantizer)[0]

    def factors(self) -> Float[Tensor, " r"]:
        """`ã` between 0 and 100, with straight-through gradients, so factors can come back from outside."""
        scale = self.in_use("scale")
        return scale if self.norm is None else straight(scale, scale.detach().clamp(0, _LARGEST))

    def folded(self, factors: Float[Tensor, " r"]) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"] | None]:
        """Factors and shifts of the sums in evaluation, with the norm in them."""
        if self.norm is None or self.shift is None:
            return factors, self.shift
        mean, var, eps = _statistics(self.norm)
        scale = factors * (var + eps).rsqrt()
        return scale, factors * self.shift - scale * mean

    def compose(self, tensors: Mapping[str, Tensor]) -> Tensor:
        if not self.has_weight:
            size = self.patches.patch
            raise ConversionError(
                f"only layers with patch 1 have a dense weight, got patch {size}: convert with patch 1"
            )
        scale = tensors["scale"]
        scale, _ = self.folded(scale if self.norm is None else scale.clamp(0, _LARGEST))
        return self.patches.dense(self.matrix("gather", scale.dtype), scale, self.matrix("spread", scale.dtype))

    @property
    def has_weight(self) -> bool:
        return self.patches.patch == 1

    def whole_bias(self) -> Float[Tensor, " n"]:
        """The bias, with what the shifts of the sums add to each output."""
        bias = self.scale.new_zeros(self.shape[0]) if self.bias is None else self.bias
        _, shift = self.folded(self.factors())
        if shift is None:
            return bias
        sums = (self.matrix("spread").flatten(1) * shift[:, None]).unflatten(0, (self.patches.groups, -1)).sum(1)
        return bias + sums.flatten()

    def _with_norm(self) -> tuple[dict[str, Tensor | None], Quantizer | None]:
        """`scale`, `shift` and `bias` of the hardened layer, and the quantizer of `scale` if it has levels."""
        scale, shift = self.folded(self.factors())
        known: Any = self.quantizer("scale")
        quantizer, scale = known.anew(scale.detach()) if known is not None and known.now else (None, scale)
        moved = (None, self.whole_bias()) if self.has_weight else (shift, self.bias)
        return dict(zip(("scale", "shift", "bias"), (scale, *moved), strict=True)), quantizer

    def to_dense_(self) -> nn.Module:
        bias, learns, needed = self.whole_bias().detach().clone(), self.scale.requires_grad, self.had_bias
        dense: Any = super().to_dense_()
        dense.bias = nn.Parameter(bias, requires_grad=learns) if needed or bias.any() else None
        return dense

    def tensors(self, scale: Tensor) -> dict[str, Tensor | None]:
        """Tensors of the hardened layer by the names of `SumProductPlan`."""
        own = {"gather": self.matrix("gather"), "spread": self.matrix("spread"), "scale": scale, "shift": self.shift}
        return {**own, "factors": None, "bias": self.bias}

    # --- learning -------------------------------------------------------------------------------------------------

    @property
    def learns_until(self) -> float:
        return float(self.options.freeze_at)

    @property
    def open_stages(self) -> int:
        return FROZEN - self.phase

    def advance_(self, progress: float) -> None:
        if progress >= self.options.freeze_at:
            self.freeze_()
        elif progress >= self.options.ternary_at and self.phase == FULL:
            self._enter(TERNARY)

    @torch.no_grad()
    def freeze_(self) -> None:
        """Keep the entries as they are now, with their scales in `ã` and in the norm."""
        if self.phase == FROZEN:
            return
        scales = {}
        for name in _MATRICES:
            entries, scales[name] = ternary(getattr(self, name), self.options.quantizer)
            self.keep(f"{name}_entries", (entries.reshape(-1) + 1).long(), 2)
        self.scale.copy_(self.scale.clamp(0, _LARGEST) * scales["spread"])
        mean, var, eps = _statistics(self.norm)
        mean.div_(scales["gather"])
        var.copy_((var + eps) / scales["gather"] ** 2 - eps)
        self._enter(FROZEN)

    def _enter(self, phase: int) -> None:
        # a bit for each phase that was reached, so averages of models are at the later one
        self.keep("stage", torch.tensor((1 << phase) - 1, device=self.scale.device), 2)
        self.phase = phase

    @torch.no_grad()
    def harden_(self) -> None:
        self.freeze_()
        if self.norm is not None:
            tensors, quantizer = self._with_norm()
            learns = self.scale.requires_grad
            for name, value in tensors.items():
                if value is not getattr(self, name):
                    self.register_parameter(name, None if value is None else nn.Parameter(value, requires_grad=learns))
            self.gather = self.spread = self.norm = None
            if quantizer is not None:
                self.quantise_with("scale", quantizer)
        self.fix_levels_()

    def train(self, mode: bool = True):
        self._read_phase()
        return super().train(mode)

    def _read_phase(self) -> None:
        """An average of models (EMA) that received the buffers of a model notices its phase here."""
        stage = self.get_buffer("stage_bits")
        if not stage.is_meta:
            self.phase = int(stage.sum())

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._read_phase()

    def fresh(self, name: str) -> Tensor | None:
        return torch.tensor((1 << self.phase) - 1) if name == "stage" else None

    # --- storing --------------------------------------------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        return {"spec": self.spec.to_dict(), "products": self.products}

    @classmethod
    def rebuilt(cls, layer: nn.Module, settings: Any, name: str) -> Compressed:
        got = take(as_map(settings, "settings"), "settings", ("spec", "products"))
        products, spec = as_int(got["products"], "products", 1), read_spec(got["spec"])
        if why := cls.unfit(layer, spec):
            raise ArtifactError(f"{why}: {DAMAGED}")
        made = cls.take_over(layer.to("meta"), spec, name, products=products)
        made.harden_()
        return made

    def stored(self, packed: dict[int, dict[str, Tensor]] | None = None) -> dict[str, Tensor]:
        if self.norm is not None:  # as after `harden_`
            twin = copy.deepcopy(self)
            twin.harden_()
            return twin.stored(packed)
        return self.stored_parameters(packed) | {name: pack_ternary(self.entries(name)) for name in _MATRICES}

    def stands_for_weight(self, name: str) -> bool:
        return super().stands_for_weight(name) or (name == "bias" and not self.had_bias)

    def restore_(self, stored: Mapping[str, Tensor]) -> None:
        for name in _MATRICES:
            if not is_ternary(stored[name]):
                raise ArtifactError(f"packed entries must be below 243 in {name}, got larger ones: {DAMAGED}")
            count = self.get_buffer(f"{name}_entries_bits").shape[0]
            self.keep(f"{name}_entries", (unpack_ternary(stored[name], count) + 1).long(), 2)
        self._enter(FROZEN)

    def plan(
        self, x: Tensor | None, after: After, dense: Callable[[], nn.Module], *, measure: bool, fuse: bool
    ) -> tuple[Plan, nn.Module | None]:
        return product_plan(self, x, after, dense, measure=measure)

    def each_patch(self) -> int:
        """Entries of both matrices: multiply-adds for an output patch."""
        return sum(self.get_buffer(f"{name}_entries_bits").shape[0] for name in _MATRICES)

    def operations(self, counted: int, read: int, made: int) -> Operations:
        patches, used = counted // self.each_patch(), nonzero([self.final_entries(name) for name in _MATRICES])
        return Operations(made * math.prod(self.shape[1:]), patches * self.products, patches * used)

    def facts(self) -> Facts:
        return product_facts(self, [self.get_buffer(f"{name}_entries_bits").shape[0] for name in _MATRICES])

    def extra_repr(self) -> str:
        p, text = self.patches, super().extra_repr().replace(", bias=False", "")  # hardening may add a bias
        return f"{text}: {self.products} products" + (f", patch {p.patch}" if p.patch > 1 else "")


def _statistics(norm: Any) -> tuple[Tensor, Tensor, float]:
    return norm.running_mean, norm.running_var, norm.eps
