"""Folding what follows a layer into it: a norm into its weight, ReLU and max-pool into the module that replaces it."""

from dataclasses import replace
from typing import cast

from torch import Tensor, nn
from torch.nn.modules.utils import _single

from autosample.deployment.chains import Chain, norm_affine
from autosample.reuse.after import After


class Following:
    """The modules that a chain names, and how they fold into the layer before them."""

    def __init__(self, model: nn.Module, chain: Chain) -> None:
        self.chain = chain
        self.norm = model.get_submodule(chain.norm) if chain.norm else None
        self.relu = chain.activation is not None
        self.pool = cast(nn.MaxPool1d | nn.MaxPool2d, model.get_submodule(chain.pool)) if chain.pool else None
        self.model = model

    @property
    def disjoint(self) -> "Following":
        """The same without a pool over images, or one whose windows overlap or are padded: `WindowConv` has none."""
        p = self.pool
        if p is None or (
            isinstance(p, nn.MaxPool1d)
            and _single(p.stride) == _single(p.kernel_size)
            and (_single(p.dilation), _single(p.padding), p.ceil_mode) == ((1,), (0,), False)
        ):
            return self
        return Following(self.model, replace(self.chain, pool=None))

    @property
    def window(self) -> int:
        """Size of the pool along its one axis, or 1."""
        return 1 if self.pool is None else _single(self.pool.kernel_size)[0]

    @property
    def names(self) -> tuple[str, ...]:
        c = self.chain
        steps = (("norm", c.norm), ("relu", c.activation), ("pool", c.pool))
        return tuple(name for name, there in steps if there)

    def after(self, bias: Tensor | None) -> After:
        """What follows a layer with this bias."""
        return After(*self.affine(bias), self.relu, self.window)

    def affine(self, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The scale that the norm gives to filters, and the bias behind both, float64."""
        if self.norm is None:
            return None, bias
        scale, shift = norm_affine(self.norm)
        return scale, shift if bias is None else bias.double() * scale + shift

    def fold_into(self, layer: nn.Module) -> None:
        """Fold the norm into a dense layer's weight and bias."""
        if self.norm is None:
            return
        weight = cast(Tensor, layer.weight)
        scale, shift = self.affine(cast(Tensor | None, layer.bias))
        assert scale is not None
        assert shift is not None
        scaled = weight.double() * scale.view(-1, *[1] * (weight.dim() - 1))
        layer.weight = nn.Parameter(scaled.to(weight.dtype), requires_grad=False)
        layer.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)

    def drop(self, rest: bool = False) -> None:
        """Take what has been folded out of the model: the norm, or the rest of the chain as well."""
        model = self.model
        if self.norm is not None:
            inner = [m for name in ("drop", "act") if isinstance(m := getattr(self.norm, name, None), nn.Module)]
            swap(model, self.norm, nn.Sequential(*inner) if len(inner) > 1 else inner[0] if inner else nn.Identity())
            self.inner_act = next(iter(inner[-1:]), None)
        if rest and self.chain.activation:
            name = self.chain.activation
            inside = self.chain.norm is not None and name == f"{self.chain.norm}.act"
            act = self.inner_act if inside else model.get_submodule(name)
            assert act is not None
            swap(model, act, nn.Identity())
        if rest and self.pool is not None:
            swap(model, self.pool, nn.Identity())


def swap(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put `new` wherever `old` is; returns the model, which is `new` if it was `old`."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                parent._modules[name] = new
    return new if model is old else model
