"""Layers whose weight is sampled from a summary: one core for any number of spatial axes.

The forward pass of the torch twin runs unchanged on the sampled weight, also with weight standardisation or dynamic
padding.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autosample.coding.exact import Exact
from autosample.coding.written import Rounding
from autosample.errors import DAMAGED, ArtifactError, ConversionError
from autosample.nn.compressed import Compressed
from autosample.nn.facts import Facts, Operations
from autosample.nn.folding import folded_operations, folded_plan, layer_folds, signs_of
from autosample.nn.graph import keep_in_graph
from autosample.nn.kinds import in_features, places
from autosample.nn.planning import layer_task, reusable, summary_plan
from autosample.nn.reading import read_geometry, read_spec
from autosample.nn.running import Reuse
from autosample.nn.written import SampledWeight
from autosample.reuse.after import After
from autosample.reuse.planner import Plan
from autosample.reuse.task import Task
from autosample.sampling.columns import Columns, build_columns
from autosample.sampling.fitting import fit_offsets, fit_summary
from autosample.sampling.folds import Folds
from autosample.sampling.geometry import Geometry
from autosample.sampling.hashing import SEED_BITS, layer_seed, random_signs
from autosample.sampling.keeping import keep_most
from autosample.sampling.presets import PRESETS
from autosample.sampling.rules import RULES, Lattice, LearnedOffsets, Offsets
from autosample.sampling.sample import sample_weight
from autosample.sampling.sizing import plan_geometry
from autosample.sampling.spec import Spec
from autosample.system.checking import as_map, take
from autosample.system.difference import relative_error


class SummaryLayer(Exact, Compressed):
    """The core that all summary layers share. Reading `weight` samples it from `summary`.

    All convolution groups share one summary.

    Attributes:
        summary: `Φ`, shape `(L, Q)`: all that is learned and stored of the weight.
        offsets: The offset rule; calling it gives the integer offsets `(N, G)`.
        columns: Channel selection, or `None` for WSNet's `m mod Q`.
        densify: WSNet's mixing matrix `(N, D·N)`, or `None`.
        geometry: The sizes that follow from spec and shape.
    """

    coded = ("summary", "densify")
    prefix = "Summary"
    title = "summary"

    summary: nn.Parameter
    offsets: Offsets
    columns: Columns | None
    densify: nn.Parameter | None
    geometry: Geometry
    _reuse: Reuse
    _error_in_order: float | None

    @classmethod
    def planned(cls, spec: Spec, shape: tuple[int, ...], bits: int = 32) -> int:
        return plan_geometry(spec, shape, bits).stored

    @classmethod
    def unfit(cls, layer: nn.Module, spec: Spec) -> str:
        rule, filters = RULES[spec.rule], cast(Tensor, layer.weight).shape[0] // getattr(layer, "groups", 1)
        return rule.unfit(spec.settings, filters) if issubclass(rule, Offsets) else ""

    def make(self, like: Tensor, name: str, geometry: Geometry | None = None) -> None:
        """Create summary, rule and selections.

        Args:
            like: The dense weight.
            name: Name of the layer in its model; the layer's seed depends on it.
            geometry: Sizes, if they differ from those of the spec.
        """
        spec, device = self.spec, like.device
        g = self.geometry = geometry or plan_geometry(spec, self.shape)
        seed, options = layer_seed(spec.seed, name), {"device": device, "dtype": like.dtype}
        self._reuse, self._error_in_order = Reuse(), None
        self.summary = nn.Parameter(torch.empty(g.length, g.columns, **options))
        mixed = g.sampled != g.filters
        self.densify = nn.Parameter(torch.empty(g.filters, g.sampled, **options)) if mixed else None
        self._seed = seed
        if spec.signs == "random":
            self.keep("sign_seed", torch.tensor(seed, device=device), SEED_BITS)
        self.offsets = RULES[spec.rule](
            Lattice.of(g, getattr(self, "groups", 1)),
            spec.settings,
            seed=seed,
            in_channels=in_features(self),
            device=device,
        )
        self.columns = build_columns(spec.columns, g, layer_seed(spec.seed, f"{name}/columns"), device)
        if self.offsets.mixture is not None and layer_folds(self) is None:
            self.offsets.mixture = None  # only folds can be mixed without a weight for each example
        if device.type != "meta":
            with torch.no_grad():
                self.summary.normal_(std=float(like.detach().std(unbiased=False)))
            self._reset_mixing()

    @property
    def has_weight(self) -> bool:
        return self.offsets.mixture is None

    def dense_weight(self) -> Tensor:
        if not self.has_weight:
            raise ConversionError(
                f"a layer of rule {self.spec.rule} has a weight for each example, got a request for one: call the "
                'layer, or convert with rule "folded"'
            )
        sampled = sample_weight(
            self.summary_in_use(),
            self.geometry,
            self.offsets.placement(),
            columns=self.columns,
            factors=self.signs(),
        )
        sampled = self.offsets.selection().weight(sampled)
        if self.densify is None:
            return sampled
        # the 1x1 convolution of denser sampling is linear, so it can act on the filters instead of on the outputs
        return (self.in_use("densify").to(sampled.dtype) @ sampled.flatten(1)).view(-1, *sampled.shape[1:])

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        if not self.offsets.watches_input:
            out = self._reuse.forward(self, args[0] if args else kwargs.get("input"))
            return super().forward(*args, **kwargs) if out is None else out
        self.offsets.observe(places(args[0] if args else next(iter(kwargs.values())), len(self.geometry.kernel)))
        out = super().forward(*args, **kwargs)
        self.offsets.forget()
        return out

    def summary_in_use(self) -> Float[Tensor, "l q"]:
        """`Φ` as quantised; parameters of frozen rules stay in the graph."""
        summary = self.in_use("summary")
        rule = self.offsets
        if self.training and torch.is_grad_enabled() and rule.learned and rule.is_frozen:
            # they are not used any more, but stay in the optimizer
            summary = keep_in_graph(summary, [p for p in rule.parameters() if p.requires_grad])
        return summary

    @property
    def sign_seed(self) -> Tensor | None:
        """Seed of the windows' signs, or `None` if all are +1."""
        return self.kept("sign_seed") if self.spec.signs == "random" else None

    def fresh(self, name: str) -> Tensor:
        return torch.tensor(self._seed)

    @property
    def folds(self) -> Folds | None:
        """How channel groups are added up with signs; `None` if the rule has no such signs."""
        return self.offsets.folds()

    def signs(self) -> Float[Tensor, "n g"] | None:
        """Signs of the windows, or `None` if all are +1."""
        g, seed, signs = self.geometry, self.sign_seed, signs_of(self, self.summary.dtype)
        if seed is None:
            return signs
        own = random_signs(seed, g.sampled, g.windows, self.summary.dtype)
        return own if signs is None else own * signs

    def reset_parameters(self) -> None:
        """Initialise like the torch twin: by the fan-in of the sampled filter, not by the summary's size."""
        bound = 1 / math.sqrt(max(self.geometry.channels * self.geometry.taps, 1))
        nn.init.uniform_(self.summary, -bound, bound)
        self._reset_mixing()
        if isinstance(self.bias, Tensor):
            nn.init.uniform_(self.bias, -bound, bound)
        self.offsets.reset_parameters()

    def _reset_mixing(self) -> None:
        if self.densify is not None:
            nn.init.normal_(self.densify, std=1 / math.sqrt(self.geometry.sampled))

    @torch.no_grad()
    def fit_(self, weight: Float[Tensor, "n m *kernel"]) -> float:
        """Fit summary and learned offsets to a dense weight; returns the relative error.

        Fixed offsets: the overlap average, closed form. Learned ones: alternating minimisation, rounded to the grid.
        """
        g = self.geometry
        target = self.summary.dtype
        for part in (self.offsets.mixture, self.offsets.signs):
            if part is not None:
                part.reset()  # the signs of the start
        weight = weight.detach().to(torch.promote_types(target, torch.float32))
        if self.densify is not None:
            # at first, every filter is one sampled filter; the other sampled ones are spread between them
            every = g.sampled // g.filters
            self.densify.zero_()[torch.arange(g.filters), torch.arange(g.filters) * every] = 1.0
            weight = weight.repeat_interleave(every, 0)
        if (folds := self.folds) is not None and self.offsets.selects:
            chosen, self._error_in_order = keep_most(weight, folds, g, self.offsets(), self.offsets.selects)
            self.offsets.select(chosen)
        windows = g.to_windows(self.offsets.selection().inputs(weight, 1))
        zeros = getattr(self.spec.settings, "zeros", 0.0)
        if self.offsets.movable and self.columns is None:
            self.offsets.assign(fit_offsets(windows, g, zeros=zeros))
        more = {"columns": self.columns, "factors": self.signs(), "pattern": self.offsets.pattern()}
        fitted = fit_summary(windows, self.offsets(), g, **more)
        if zeros:
            fitted[: g.window] = 0
        self.summary.copy_(fitted.to(target))
        self.fit_error = relative_error(weight, self._hard_weight())
        return self.fit_error

    def _hard_weight(self) -> Tensor:
        """The sampled filters at integer offsets, before any mixing."""
        placement = self.offsets.hard_placement()
        summary = self.summary.to(torch.promote_types(self.summary.dtype, torch.float32))
        weight = sample_weight(summary, self.geometry, placement, columns=self.columns, factors=self.signs())
        return self.offsets.selection().weight(weight)

    @property
    def learns_until(self) -> float:
        return self.spec.settings.freeze_at if self.offsets.learned else 0.0

    def advance_(self, progress: float) -> None:
        until = self.learns_until
        if progress >= until:
            self.freeze_()
        elif isinstance(self.offsets, LearnedOffsets):
            self.offsets.anneal(progress / until)

    def freeze_(self) -> None:
        self.offsets.freeze()

    def harden_(self) -> None:
        self.freeze_()
        self.offsets = self.offsets.hardened()
        self.fix_levels_()

    def learned_offsets(self) -> Tensor | None:
        return self.offsets.followed() if self.offsets.learned else None

    def windows_on_summary(self) -> tuple[Tensor, int, int] | None:
        return (
            None if self.offsets.pattern() is not None else (self.offsets(), self.geometry.window, self.geometry.length)
        )

    def rates(self) -> dict[int, float | None]:
        rates: dict[int, float | None] = {id(p): None for p in self.offsets.parameters()}
        return rates | {id(p): self.spec.settings.rate for p in self.offsets.rated()}

    def held(self) -> dict[str, Any]:
        strides = {"strides": "any"} if self.offsets.spaced else {}
        return {"windows": self.geometry.windows, "rule": self.spec.rule, "options": {"afford": None, **strides}}

    def settings(self) -> dict[str, Any]:
        sizes = asdict(self.geometry) | {"kernel": list(self.geometry.kernel)}
        return {"spec": self.spec.to_dict(), "geometry": sizes, **({"near": True} if self.offsets.near else {})}

    @classmethod
    def rebuilt(cls, layer: nn.Module, settings: Any, name: str) -> Compressed:
        got = take({"near": False, **as_map(settings, "settings")}, "settings", ("spec", "geometry", "near"))
        spec, g = read_spec(got["spec"]), read_geometry(got["geometry"])
        shape = tuple(cast(Tensor, layer.weight).shape)
        if shape != (g.filters, g.channels, *g.kernel):
            raise ArtifactError(
                f"its weight must have the shape {(g.filters, g.channels, *g.kernel)}, got {type(layer).__name__} with "
                f"{shape}: the model was built with other arguments than it was saved with"
            )
        if g.sampled not in (g.filters * spec.denser, g.filters):
            raise ArtifactError(f"it must sample {g.filters * spec.denser} filters, got {g.sampled}: {DAMAGED}")
        made = cls.take_over(layer.to("meta"), spec, name, geometry=g)
        made.offsets.read_near(got["near"] is True)
        return made

    def stored(self, packed: dict[int, dict[str, Tensor]] | None = None) -> dict[str, Tensor]:
        own = super().stored(packed)
        if own.pop("sign_seed_bits", None) is not None:
            own["sign_seed"] = self.kept("sign_seed")
        for part in ("offsets", "columns"):
            if (module := getattr(self, part)) is not None:
                own |= {f"{part}.{name}": tensor for name, tensor in module.packed().items()}
        return own

    def packed_numbers(self) -> dict[str, tuple[int, int]]:
        p = self.offsets.lattice
        return {**super().packed_numbers(), "offsets.table": (p.bits, p.filters * p.windows)}

    def stands_for_weight(self, name: str) -> bool:
        return name == "sign_seed" or super().stands_for_weight(name)

    def restore_(self, stored: Mapping[str, Tensor]) -> None:
        if "sign_seed" in stored:
            self.keep("sign_seed", stored["sign_seed"], SEED_BITS)
        for part in ("offsets", "columns"):
            if (rule := getattr(self, part)) is not None:
                inner = {n.removeprefix(f"{part}."): t for n, t in stored.items() if n.startswith(f"{part}.")}
                setattr(self, part, rule.restored(inner))

    def task(self) -> Task | None:
        return None if reusable(self) else layer_task(self)

    def plan(
        self, x: Tensor | None, after: After, dense: Callable[[], nn.Module], *, measure: bool, fuse: bool
    ) -> tuple[Plan, nn.Module | None]:
        if (folds := layer_folds(self)) is not None:
            return folded_plan(self, folds, x, after, dense, measure=measure, fuse=fuse)
        return summary_plan(self, x, after, dense, measure=measure, fuse=fuse)

    def written(self, scale: Tensor | None, rounding: Rounding) -> nn.Module:
        return SampledWeight(self, scale, rounding)

    def facts(self) -> Facts:
        g = self.geometry
        bits = self.offsets.stored_bits() + (self.columns.stored_bits() if self.columns is not None else 0)
        asked, rule = self.spec.ratio, ""
        far = asked is not None and abs(g.ratio / asked - 1) > 0.01
        if self._whole():
            rule = "whole"
        elif self.spec.rule != PRESETS.get(self.spec.preset, {}).get("rule", self.spec.preset):
            rule = f"{self.spec.rule} offsets"  # learned offsets would have cost too much
        size = f"asked {asked:g}x, the layer allows {g.ratio:.3g}x" if far else ""
        static = "one mixture of folds for all examples" if self.spec.rule == "conditioned" and self.has_weight else ""
        fit = "" if self._error_in_order is None else f"fit error {self._error_in_order:.3f} without selections"
        notes = tuple(note for note in (size, rule, static, fit, *self.coding_notes()) if note)
        return Facts(self.spec.preset, g.dense, g.stored, bits, g.multiplicity, notes)

    def operations(self, counted: int, read: int, made: int) -> Operations:
        if not self.has_weight:  # no dense layer was run; the learner counts too
            return Operations(made * math.prod(self.shape[1:]), counted, counted)
        folds = layer_folds(self)
        if folds is None:
            return super().operations(counted, read, made)
        return folded_operations(folds, self.geometry.taps, counted, read, made)

    def _whole(self) -> bool:
        """Whether the summary is the weight itself, as for a layer whose share holds all its weights."""
        g = self.geometry
        return self.spec.rule == PRESETS["dense"]["rule"] and self.spec.grid == "window" and g.stored == g.dense

    def extra_repr(self) -> str:
        g = self.geometry
        sizes = f"summary {g.length}x{g.columns}, {g.windows} windows of {g.window}, {g.ratio:.3g}x"
        return f"{super().extra_repr()}: {sizes}"
