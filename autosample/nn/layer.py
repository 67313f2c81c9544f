"""Layers whose weight is sampled from a summary: one N-d core, thin faces for Conv1d, Conv2d and Linear.

A summary layer *is* its torch twin (a subclass of it) except that `weight` is a property. Whatever forward pass the
twin has, weight standardisation or dynamic padding among them, runs unchanged on the sampled weight.
"""

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autosample.errors import ConversionError
from autosample.nn.execution import Reuse
from autosample.nn.graph import keep_in_graph, scale_gradient
from autosample.nn.quantised import QuantisedParameters
from autosample.sampling import (
    OFFSET_RULES,
    Geometry,
    LearnedOffsets,
    Offsets,
    Placement,
    Places,
    build_columns,
    fit_positions,
    fit_summary,
    multiplicity,
    plan_geometry,
    random_signs,
    sample_weight,
    settle,
)
from autosample.sampling.columns import Columns, LearnedColumns
from autosample.sampling.hashing import layer_seed
from autosample.sampling.rules.indexed import IndexedOffsets
from autosample.sampling.spec import Spec
from autosample.sampling.spec import spec as make_spec
from autosample.system.difference import relative_error


class SummaryLayer(QuantisedParameters):
    """The core that all summary layers share. `weight` is sampled anew from `summary` each time it is read.

    Filters of all convolution groups sample from the one summary.

    Attributes:
        summary: `Φ`, shape `(L, Q)`: all that is learned and stored of the weight.
        offsets: The offset rule; calling it gives the integer positions `(N, G)`.
        columns: Channel selection, or `None` for WSNet's `m mod Q`.
        gains: Learned factors `(N, 1)` or `(N, G)`, or `None`.
        densify: WSNet's mixing matrix `(N, D·N)`, or `None`.
        quantizers: What keeps `summary`, `gains` or `densify` at few bits, by name, or `None`.
        spec, geometry: What was asked for, and the sizes that follow from it.
        fit_error: `‖W − Ŵ‖/‖W‖` of the warm start, or `None`.
    """

    summary: nn.Parameter
    offsets: Offsets
    columns: Columns | None
    gains: nn.Parameter | None
    densify: nn.Parameter | None
    sign_seed: Tensor | None
    quantizers: nn.ModuleDict | None
    spec: Spec
    geometry: Geometry
    fit_error: float | None
    _reuse: Reuse

    @property
    def weight(self) -> Tensor:
        """The dense weight in torch's shape `(N, M, *kernel)`, differentiable in all that the layer learns."""
        sampled = sample_weight(
            self._summary_in_use(),
            self.geometry,
            self.offsets.placement(),
            columns=self.columns,
            factors=self._factors(),
        )
        if self.densify is None:
            return sampled
        # the 1x1 convolution of denser sampling is linear, so it can act on the filters instead of on the outputs
        return (self.in_use("densify").to(sampled.dtype) @ sampled.flatten(1)).view(-1, *sampled.shape[1:])

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        if not self.offsets.watches_input:
            out = self._reuse.forward(self, args[0]) if args else None
            return super().forward(*args, **kwargs) if out is None else out
        self.offsets.observe(self._pooled(args[0] if args else next(iter(kwargs.values()))))
        out = super().forward(*args, **kwargs)
        self.offsets.forget()
        return out

    def _summary_in_use(self) -> Float[Tensor, "l q"]:
        """`Φ` as quantised, its gradient scaled as the spec says, and frozen parameters kept in the graph."""
        summary = self.in_use("summary")
        if self.spec.scale_gradient != "none":
            count = multiplicity(self.offsets(), self.geometry.window, self.geometry.length).clamp_min(1)
            power = -1.0 if self.spec.scale_gradient == "mean" else -0.5
            summary = scale_gradient(summary, count.to(summary.dtype).pow(power).unsqueeze(1))
        if self.training and torch.is_grad_enabled():
            summary = keep_in_graph(summary, self._idle_parameters())
        return summary

    def _idle_parameters(self) -> list[Tensor]:
        """Parameters of frozen rules: they take no part any more, yet keep their place in the optimizer."""
        idle = [p for part in learned_parts(self) if part.is_frozen for p in part.parameters()]
        return [p for p in idle if p.requires_grad]

    def _factors(self) -> Float[Tensor, "n #g"] | None:
        """Signs times gains."""
        factors = None if self.gains is None else self.in_use("gains")
        if self.sign_seed is not None:
            g = self.geometry
            signs = random_signs(self.sign_seed, g.sampled, g.windows, self.summary.dtype)
            factors = signs if factors is None else signs * factors
        return factors

    def _pooled(self, x: Tensor) -> Float[Tensor, "b c"]:
        """The layer's input, averaged over space: what an index learner sees."""
        rank = len(self.geometry.kernel)
        if rank == 0:
            return x.reshape(x.shape[0] if x.dim() > 1 else 1, -1, x.shape[-1]).mean(1)
        return x.reshape(-1, *x.shape[-1 - rank :]).flatten(2).mean(2)

    def reset_parameters(self) -> None:
        """Initialise like the torch twin: by the fan-in of the sampled filter, not by the summary's size."""
        bound = 1 / math.sqrt(max(self.geometry.channels * self.geometry.taps, 1))
        nn.init.uniform_(self.summary, -bound, bound)
        self._reset_factors()
        if isinstance(self.bias, Tensor):
            nn.init.uniform_(self.bias, -bound, bound)

    def _reset_factors(self) -> None:
        if self.gains is not None:
            nn.init.ones_(self.gains)
        if self.densify is not None:
            nn.init.normal_(self.densify, std=1 / math.sqrt(self.geometry.sampled))

    @torch.no_grad()
    def fit_(self, weight: Float[Tensor, "n m *kernel"]) -> float:
        """Fit summary, learned positions and gains to a dense weight; returns the relative error.

        Fixed positions: the overlap average, closed form. Learned ones: alternating minimisation, rounded to the grid.
        """
        g = self.geometry
        target = self.summary.dtype
        weight = weight.detach().to(torch.promote_types(target, torch.float32))
        if self.densify is not None:
            # every filter is one of the sampled ones to begin with; the others are spread between them
            every = g.sampled // g.filters
            self.densify.zero_()[torch.arange(g.filters), torch.arange(g.filters) * every] = 1.0
            weight = weight.repeat_interleave(every, 0)
        if self.gains is not None:
            self.gains.fill_(1.0)
        windows = g.to_windows(weight)
        if self.offsets.movable and self.columns is None:
            self.offsets.assign(fit_positions(windows, g))
        positions = self.offsets()
        factors = self._factors()
        self.summary.copy_(fit_summary(windows, positions, g, columns=self.columns, factors=factors).to(target))
        if self.gains is not None:
            self._fit_gains(windows, positions)
        error = relative_error(weight, self._hard_weight())
        self.fit_error = error
        return error

    def _fit_gains(self, windows: Tensor, positions: Tensor) -> None:
        """One round of closed-form gains for the fitted summary, then the summary for those gains."""
        assert self.gains is not None
        now = self.geometry.to_windows(self._hard_weight())
        axes = (2, 3) if self.gains.shape[1] > 1 else (1, 2, 3)
        gain = (windows * now).sum(axes) / now.square().sum(axes).clamp_min(1e-30)
        self.gains.copy_(gain.view(self.gains.shape))
        summary = fit_summary(windows, positions, self.geometry, columns=self.columns, factors=self._factors())
        self.summary.copy_(summary)

    def _hard_weight(self) -> Tensor:
        """The sampled filters at integer positions, before any densifying."""
        placement = Placement(self.offsets())
        summary = self.summary.to(torch.promote_types(self.summary.dtype, torch.float32))
        return sample_weight(summary, self.geometry, placement, columns=self.columns, factors=self._factors())

    def freeze_(self) -> None:
        """Make learned positions and selections integers and stop learning them; the summary goes on learning."""
        for part in learned_parts(self):
            part.freeze()

    def harden_(self) -> None:
        """Freeze, drop everything that only learning needs, and leave quantised parameters at their levels."""
        self.freeze_()
        self.offsets = self.offsets.hardened()
        if self.columns is not None:
            self.columns = self.columns.hardened()
        self.fix_levels_()

    def stored(self, packed: dict[int, dict[str, Tensor]] | None = None) -> dict[str, Tensor]:
        """The tensors that a file needs to give this layer back, quantised values and positions packed.

        `packed` holds what has been packed before, by the identity of the parameter, for layers that share one.
        """
        lasting = {n: b for n, b in self.named_buffers(recurse=False) if n not in self._non_persistent_buffers_set}
        own = self.stored_parameters(packed) | lasting
        for part in ("offsets", "columns"):
            if (module := getattr(self, part)) is not None:
                own |= {f"{part}.{name}": tensor for name, tensor in module.packed().items()}
        return own

    def __reduce__(self) -> tuple:
        return _blank, (self._dense_class,), self.__dict__

    def extra_repr(self) -> str:
        g = self.geometry
        sizes = f"summary {g.length}x{g.columns}, {g.windows} windows of {g.window}, {g.ratio:.3g}x"
        return f"{super().extra_repr()}, {self.spec.preset}: {sizes}"

    _dense_class: type[nn.Module] = nn.Module


def learned_parts(layer: SummaryLayer) -> list[Any]:
    """The rules inside a layer that can be frozen."""
    # a tuple, as torch 2.6 cannot compile unions
    return [module for module in layer.modules() if isinstance(module, (LearnedOffsets, LearnedColumns))]


def outer_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """`model.named_modules()` without the rules and quantizers inside of summary layers."""
    inside: set[int] = set()
    for name, module in model.named_modules():
        if id(module) not in inside:
            yield name, module
            if isinstance(module, SummaryLayer):
                rules = (rule for rule in (module.offsets, module.columns, module.quantizers) if rule is not None)
                inside.update(id(part) for rule in rules for part in rule.modules())


def become_summary(
    layer: nn.Module, spec: Spec, name: str = "", *, geometry: Geometry | None = None, spread: float | None = None
) -> SummaryLayer:
    """Turn a Conv1d, Conv2d, Linear or a subclass of them into its summary twin, in place.

    The module keeps its identity, so references, hooks and shared uses stay valid. Its dense weight is dropped;
    the summary is random, with the standard deviation `spread`, or that of the dense weight.

    Raises:
        ConversionError: The layer is of another type, or is a summary layer already.
    """
    twin = summary_class(type(layer))
    weight = layer._parameters["weight"]
    assert weight is not None
    resolved = settle(spec, weight.shape)
    g = geometry or plan_geometry(resolved, weight.shape)
    del layer._parameters["weight"]
    layer.__class__ = twin
    assert isinstance(layer, SummaryLayer)
    options: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    layer.spec, layer.geometry, layer.fit_error, layer._reuse = resolved, g, None, Reuse()
    layer.quantizers = None
    layer.summary = nn.Parameter(torch.empty(g.length, g.columns, **options), requires_grad=weight.requires_grad)
    gains = {"none": 0, "filter": 1, "window": g.windows}[resolved.gains]
    layer.gains = nn.Parameter(torch.empty(g.sampled, gains, **options)) if gains else None
    mixed = g.sampled != g.filters
    layer.densify = nn.Parameter(torch.empty(g.filters, g.sampled, **options)) if mixed else None
    seed = torch.tensor(layer_seed(resolved.seed, name), device=weight.device)
    layer.register_buffer("sign_seed", seed if resolved.signs == "random" else None)
    layer.offsets = OFFSET_RULES[resolved.rule](Places.of(g), resolved, name=name, device=weight.device)
    if isinstance(layer.offsets, IndexedOffsets):
        layer.offsets.attach(layer.in_channels if g.kernel else layer.in_features)  # pyright: ignore
    layer.columns = build_columns(g, resolved, name, weight.device)
    if weight.device.type != "meta":
        with torch.no_grad():
            layer.summary.normal_(std=float(weight.detach().std(unbiased=False)) if spread is None else spread)
        layer._reset_factors()
    parts = [part for part in (layer.offsets, layer.columns) if part is not None]
    for part in parts:
        part.train(layer.training)
    if not weight.requires_grad:  # a layer that is not to learn has nothing else that learns either
        learned = [layer.gains, layer.densify, *(p for part in parts for p in part.parameters())]
        for parameter in learned:
            if parameter is not None:
                parameter.requires_grad_(False)
    return layer


@cache
def summary_class(dense: type[nn.Module]) -> type[nn.Module]:
    """The summary twin of a layer class, made once."""
    if issubclass(dense, SummaryLayer):
        raise ConversionError(f"a layer is converted once, got a {dense.__name__}: convert a model that is still dense")
    for face in (SummaryConv1d, SummaryConv2d, SummaryLinear):
        if dense is face._dense_class:
            return face
        if issubclass(dense, face._dense_class):
            return type(f"Summary{dense.__name__}", (face, dense), {"_dense_class": dense})
    raise ConversionError(f"only Conv1d, Conv2d and Linear can be sampled, got {dense.__name__}: exclude the layer")


def _blank(dense: type[nn.Module]) -> nn.Module:
    """An empty instance of a summary class, for copy and pickle."""
    twin = summary_class(dense)
    return twin.__new__(twin)


def build_summary(layer: SummaryLayer, args: tuple, spec: "Spec | str", changes: dict, **options: Any) -> None:
    """Construct `layer` with the arguments of its torch twin; the dense weight is never initialised."""
    device = options.pop("device", None) or torch.get_default_device()
    dense = layer._dense_class(*args, device="meta", **options)
    for name, tensor in dense.named_parameters():
        dense._parameters[name] = nn.Parameter(torch.empty_like(tensor, device=device))
    layer.__dict__.update(dense.__dict__)
    layer.__class__ = layer._dense_class  # pyright: ignore[reportAttributeAccessIssue]
    become_summary(layer, make_spec(spec, **changes), spread=0.0)
    layer.reset_parameters()


class SummaryConv1d(SummaryLayer, nn.Conv1d):
    """`torch.nn.Conv1d` whose filters are sampled from a summary.

    Arguments as for `torch.nn.Conv1d`, then `spec` (a preset name or a `Spec`) and any field of `Spec` by name:
    `SummaryConv1d(64, 128, 32, spec="wsnet", ratio=16)`. Input `(B, in_channels, T)`, output `(B, out_channels, T')`.

    Raises:
        SpecError: The spec is unusable for this shape.
    """

    _dense_class = nn.Conv1d

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True,
                 padding_mode="zeros", device=None, dtype=None, *, spec="autosample", **changes) -> None:  # fmt: skip
        args = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        build_summary(self, args, spec, changes, device=device, dtype=dtype)


class SummaryConv2d(SummaryLayer, nn.Conv2d):
    """`torch.nn.Conv2d` whose filters are sampled from a summary; see `SummaryConv1d`.

    Input `(B, in_channels, H, W)`, output `(B, out_channels, H', W')`.
    """

    _dense_class = nn.Conv2d

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True,
                 padding_mode="zeros", device=None, dtype=None, *, spec="autosample", **changes) -> None:  # fmt: skip
        args = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        build_summary(self, args, spec, changes, device=device, dtype=dtype)


class SummaryLinear(SummaryLayer, nn.Linear):
    """`torch.nn.Linear` whose rows are sampled from a summary; see `SummaryConv1d`.

    Input `(…, in_features)`, output `(…, out_features)`.
    """

    _dense_class = nn.Linear

    def __init__(self, in_features, out_features, bias=True, device=None, dtype=None, *, spec="autosample",
                 **changes) -> None:  # fmt: skip
        build_summary(self, (in_features, out_features, bias), spec, changes, device=device, dtype=dtype)
