"""`Compressed`: the interface of a layer that stores less than its weight."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autosample.coding.written import Rounding
from autosample.errors import ConversionError, SpecError
from autosample.nn.computed import ComputedWeight
from autosample.nn.facts import Reported
from autosample.nn.kinds import KINDS, names_of_kinds
from autosample.nn.reading import read_spec
from autosample.nn.taps import seen_taps
from autosample.nn.written import ComposedWeight
from autosample.reuse import signals
from autosample.reuse.after import After
from autosample.reuse.planner import Plan
from autosample.reuse.task import Task
from autosample.sampling.rules import RuleOptions
from autosample.sampling.sizing import settle
from autosample.sampling.spec import Spec
from autosample.sampling.spec import spec as make_spec
from autosample.system.checking import as_map, take
from autosample.system.tracing import keep_whole


class Compressed(ComputedWeight, Reported):
    """A layer that stores less than its weight. It *is* its torch twin (a subclass of it), but `weight` is a property.

    Converting, reporting, quantising, hardening, saving, loading, deploying and exporting use only this interface, so a
    new method is one subclass and one row of `autosample.sampling.RULES`. It must define `coded`, `planned`, `make` and
    `compose`; everything else has a default.

    Attributes:
        spec: How the layer is compressed; only sizes are open.
        shape: Shape of the dense weight, as in torch: `(N, M, *kernel)`.
        fit_error: `‖W − Ŵ‖/‖W‖` after a warm start, or `None`.
    """

    #: the settings of this method, the `options` of a spec
    Options: ClassVar[type[RuleOptions]] = RuleOptions
    #: names of the parameters that make up the weight; they can be quantised, and decay like weights
    coded: ClassVar[tuple[str, ...]] = ()
    #: start of the twin's class name: `Summary` + `Conv2d`
    prefix: ClassVar[str] = "Compressed"
    #: name of the method in saved models, if it is not the spec's rule
    title: ClassVar[str] = ""
    #: whether the layer computes its output from its weight, if nothing is reused
    by_weight: ClassVar[bool] = True
    #: the subclass that defines the method, and the torch class that the layer replaces
    method: ClassVar[type["Compressed"]]
    dense_class: ClassVar[type[nn.Module]] = nn.Module

    spec: Spec
    shape: tuple[int, ...]
    fit_error: float | None
    _added: frozenset[str]

    def __init__(self, *args: Any, spec: "Spec | str | Mapping[str, Any]" = "autosample", **given: Any) -> None:
        """Construct a layer with the arguments of its torch twin; its dense weight is never initialised.

        Args:
            args: Positional arguments of the torch twin.
            spec: Preset name, mapping or `Spec`.
            given: Keyword arguments of the torch twin, and fields of `Spec`.
        """
        known = inspect.signature(self.dense_class.__init__).parameters
        options = {name: value for name, value in given.items() if name in known}
        resolved = make_spec(spec, **{name: value for name, value in given.items() if name not in known})
        device = options.pop("device", None) or torch.get_default_device()
        dense = self.dense_class(*args, device="meta", **options)
        for name, tensor in dense.named_parameters():
            dense._parameters[name] = nn.Parameter(torch.zeros_like(tensor, device=device))
        self.__dict__.update(dense.__dict__)
        weight, method = dense._parameters["weight"], self.method
        assert weight is not None
        self.__class__ = self.dense_class  # pyright: ignore[reportAttributeAccessIssue]
        method.take_over(self, settle(resolved, weight.shape))
        self.reset_parameters()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "make" in cls.__dict__:
            cls.method = cls

    # --- what a method must define --------------------------------------------------------------------------------

    @classmethod
    def planned(cls, spec: Spec, shape: tuple[int, ...], bits: int = 32) -> int:
        """Count of numbers that would be stored for a weight of this shape.

        Args:
            spec: Spec for all layer kinds.
            shape: Shape of the weight, as in torch.
            bits: Planned bits per stored number.

        Raises:
            SpecError: The spec is unusable for this shape.
        """
        raise NotImplementedError

    def make(self, like: Tensor, name: str) -> None:
        """Create the layer's parameters, on the device and in the precision of the dense weight `like`.

        `name` is the layer's name in its model. `like` may be on the meta device. Draw the parameters such that the
        weight has the spread of `like`.
        """
        raise NotImplementedError

    def compose(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The dense weight `(N, M, *kernel)` from the tensors named by `coded`: standard, differentiable operators."""
        raise NotImplementedError

    @classmethod
    def unfit(cls, layer: nn.Module, spec: Spec) -> str:
        """Why this method cannot take over a layer of this class and size, at the settings of `spec`; else empty."""
        return ""

    # --- becoming -------------------------------------------------------------------------------------------------

    @classmethod
    def take_over(cls, layer: nn.Module, spec: Spec, name: str = "", **made_with: Any) -> Any:
        """Turn a dense layer, of a class in `KINDS` or a subclass, into its twin of this method, in place.

        The module keeps its identity, so references, hooks and shared uses stay valid. Its dense weight is dropped.

        Args:
            layer: A dense layer.
            spec: Spec settled for this layer; only sizes are open.
            name: Name of the layer in its model.
            made_with: More arguments for `make`.

        Raises:
            ConversionError: The layer has another type, or is already compressed.
            SpecError: The layer is not fit for the spec.
        """
        if not made_with and (why := cls.unfit(layer, spec)):
            raise SpecError(why)
        weight = layer._parameters["weight"]
        assert weight is not None
        twin, before = twin_class(cls, type(layer)), _names(layer)
        del layer._parameters["weight"]
        layer.__class__ = twin
        assert isinstance(layer, Compressed)
        layer.spec, layer.shape, layer.fit_error, layer.quantizers = spec, tuple(weight.shape), None, None
        keep_whole(layer)
        layer.make(weight, name, **made_with)
        layer._added = frozenset()
        layer._added = frozenset(_names(layer) - before)
        added = [module for name in layer._added if (module := layer._modules.get(name)) is not None]
        for part in added:
            part.train(layer.training)
        if not weight.requires_grad:  # if the weight does not learn, nothing else in the layer does
            own = [layer._parameters.get(name) for name in layer._added]
            for parameter in (*own, *(p for part in added for p in part.parameters())):
                if parameter is not None:
                    parameter.requires_grad_(False)
        return layer

    # --- computing ------------------------------------------------------------------------------------------------

    def dense_weight(self) -> Tensor:
        """What `weight` shows, as an ordinary tensor."""
        return self.compose({name: self.in_use(name) for name in self.coded})

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Called by torch's convolutions."""
        y = signals.convolve(self, input, weight, bias)
        return super()._conv_forward(input, seen_taps(self, input, weight), bias) if y is None else y  # pyright: ignore

    @torch.no_grad()
    def to_dense_(self) -> nn.Module:
        """Turn the layer into its dense torch twin, in place; its weight does not require gradients.

        Raises:
            ConversionError: There is no such twin.
        """
        weight = self.dense_weight().detach().clone()
        for name in self._added:
            for store in (self._parameters, self._buffers, self._modules, self.__dict__):
                store.pop(name, None)
        layer: Any = self
        layer.__class__ = self.dense_class
        layer.weight = nn.Parameter(weight, requires_grad=False)
        return layer

    # --- learning -------------------------------------------------------------------------------------------------

    def reset_parameters(self) -> None:
        """Initialise again, as when the layer was made."""

    def fit_(self, weight: Tensor) -> float:
        """Fit the stored numbers to a dense weight; returns the relative error `‖W − Ŵ‖/‖W‖`."""
        raise SpecError(f"rule {self.spec.rule} cannot start from trained weights: remove warm_start")

    @property
    def learns_until(self) -> float:
        """Share of the training after which selections are frozen; 0 if none is learned."""
        return 0.0

    @property
    def open_stages(self) -> int:
        """How many stages of the training still change the weight at once, besides those of selections."""
        return 0

    def advance_(self, progress: float) -> None:
        """Anneal or freeze what is learned; `progress` is the share of the training that is done (0 … 1)."""

    def freeze_(self) -> None:
        """Make learned selections integers and stop learning them; the stored numbers keep learning."""

    def harden_(self) -> None:
        """Freeze, drop everything that only learning needs, and set quantised parameters to their levels."""
        self.freeze_()
        self.fix_levels_()

    def learned_offsets(self) -> Tensor | None:
        """The integer offsets `(N, G)`, or blocks `(N, 1)`, if they are learned or were learned; else `None`."""
        return None

    def windows_on_summary(self) -> tuple[Tensor, int, int] | None:
        """Offsets `(N, G)`, rows per window, and rows of the summary; `None` for layers without windows."""
        return None

    def rates(self) -> dict[int, float | None]:
        """Own learning rates of parameters, by `id`; `None` is that of the weights. These parameters never decay."""
        return {}

    # --- storing --------------------------------------------------------------------------------------------------

    @property
    def kept_as(self) -> str:
        """Name of the method in saved models."""
        return self.title or self.spec.rule

    def held(self) -> dict[str, Any]:
        """Fields of a spec that let this layer's size follow the ratio without jumps."""
        return {}

    def settings(self) -> dict[str, Any]:
        """Plain data from which `rebuilt` makes the same layer, without its numbers."""
        return {"spec": self.spec.to_dict()}

    @classmethod
    def rebuilt(cls, layer: nn.Module, settings: Any, name: str) -> "Compressed":
        """Turn a dense layer into the one that `settings` describe, in place, on the meta device.

        Raises:
            ArtifactError: The settings do not fit this layer.
        """
        got = take(as_map(settings, "settings"), "settings", ("spec",))
        return cls.take_over(layer.to("meta"), read_spec(got["spec"]), name)

    def stored(self, packed: dict[int, dict[str, Tensor]] | None = None) -> dict[str, Tensor]:
        """The tensors that a file needs to restore this layer, quantised values packed.

        `packed` holds the parameters that are packed already, by their identity, for layers that share one.
        """
        lasting = {n: b for n, b in self.named_buffers(recurse=False) if n not in self._non_persistent_buffers_set}
        return self.stored_parameters(packed) | lasting

    def restore_(self, stored: Mapping[str, Tensor]) -> None:
        """Restore what `stored` returned besides the layer's own parameters and buffers."""

    # --- deploying and exporting ----------------------------------------------------------------------------------

    def task(self) -> Task | None:
        """What can be computed once and reused; `None` if no work is shared.

        A layer with a task must give a module like `SampledWeight` as its `written` form.
        """
        return None

    def plan(
        self, x: Tensor | None, after: After, dense: Callable[[], nn.Module], *, measure: bool, fuse: bool
    ) -> tuple[Plan, nn.Module | None]:
        """The fastest way to compute the hardened layer, and the module that does it; `None` if it becomes dense.

        Args:
            x: A tensor of the shape, type and device of the inputs, with any numbers; `None` if no input is known.
            after: What follows the layer; the module must compute it too.
            dense: Makes the dense layer and what follows it, for comparison.
            measure, fuse: As for `autosample.deploy`.
        """
        return Plan("dense", "no other plan is known"), None

    def written(self, scale: Tensor | None, rounding: Rounding) -> nn.Module:
        """A module without inputs that computes the hardened layer's weight from what is stored, in an exported graph.

        Args:
            scale: Factors of a norm for the weight along its first axis, `(N,)`, or `None`.
            rounding: How the stored numbers are rounded.
        """
        return ComposedWeight(self, scale, rounding)

    # --- reporting ------------------------------------------------------------------------------------------------

    def stands_for_weight(self, name: str) -> bool:
        """Whether the tensor of this name in `stored` belongs to the weight; biases, for example, do not."""
        return name.split(".")[0] in self._added

    def inner_modules(self) -> Iterator[nn.Module]:
        """Modules that belong to the compression: rules, quantizers."""
        for name in self._added:
            if (module := self._modules.get(name)) is not None:
                yield from module.modules()

    def __reduce__(self) -> tuple:
        return blank, (self.method, self.dense_class), self.__dict__

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.spec.preset}"


#: twin classes written by hand, by method and torch class
FACES: dict[tuple[type[Compressed], type[nn.Module]], type[Compressed]] = {}


@cache
def twin_class(method: type[Compressed], dense: type[nn.Module]) -> type[Compressed]:
    """The compressed twin of a layer class, created once."""
    if issubclass(dense, Compressed):
        raise ConversionError(f"a layer can be converted once, got {dense.__name__}: start from the dense layer")
    if (face := FACES.get((method, dense))) is not None:
        return face
    bases: tuple[type, ...] = (method, dense)
    if dense not in KINDS:
        kind = next((kind for kind in KINDS if issubclass(dense, kind)), None)
        if kind is None:
            raise ConversionError(f"only {names_of_kinds()} can be compressed, got {dense.__name__}: exclude the layer")
        bases = (twin_class(method, kind), dense)
    return type(f"{method.prefix}{dense.__name__}", bases, {"dense_class": dense, "__module__": __name__})


def blank(method: type[Compressed], dense: type[nn.Module]) -> nn.Module:
    """An empty instance of a twin class, for copy and pickle."""
    twin = twin_class(method, dense)
    return twin.__new__(twin)


def _names(layer: nn.Module) -> set[str]:
    return {*layer.__dict__, *layer._parameters, *layer._buffers, *layer._modules}
