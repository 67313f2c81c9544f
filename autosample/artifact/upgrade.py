"""Converts saved models of earlier formats to the present one, before they are checked.

Format 1 had no checksum, and listed the precision of every rounded tensor. Format 2 had only summary layers, with specs
of version 0.1.0. Rules and factors that were removed since are converted such that the weights stay the same.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autosample.coding.quantizers import QUANTIZERS
from autosample.errors import ArtifactError
from autosample.nn import CodedLayer
from autosample.nn.reading import read_geometry
from autosample.sampling.hashing import random_offsets
from autosample.sampling.rules import Lattice
from autosample.sampling.spec import spec
from autosample.sampling.upgrade import upgraded
from autosample.system.checking import as_float, as_map, as_text


def since_1(data: Mapping[str, Any]) -> dict[str, Any]:
    """Format 2 from format 1."""
    rounded = as_map(data.get("rounded", {}), "rounded")
    return {**data, "rounded": by_value({key: as_text(value, f"rounded.{key}") for key, value in rounded.items()})}


def by_value(names: Mapping[str, str]) -> dict[str, list[str]]:
    """The names of each value."""
    listed: dict[str, list[str]] = {}
    for name, value in names.items():
        listed.setdefault(value, []).append(name)
    return listed


def by_owner(values: Mapping[str, Any], owners: Collection[str]) -> dict[str, dict[str, Any]]:
    """Values of tensors by the module that owns each, then by the rest of its name. Inner modules come before outer."""
    owned: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        owner = name
        while owner and owner not in owners:
            owner = owner.rpartition(".")[0]
        if owner in owners:
            owned.setdefault(owner, {})[name[len(owner) + 1 if owner else 0 :]] = value
    return owned


def since_2(data: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Format 3 from format 2, in which each layer has its own method and settings, and the layers of format 2.

    Invalid data are left for the checks of the present format.
    """
    layers = data.get("layers")
    if not isinstance(layers, Mapping):
        return dict(data), {}
    old = {name: layer for name, layer in layers.items() if isinstance(layer, Mapping) and _spec(layer)}
    new = {name: _layer(layer) if name in old else layer for name, layer in layers.items()}
    rounded = data.get("rounded")
    if isinstance(rounded, Mapping):
        gains = {f"{name}.gains" if name else "gains" for name in old}
        rounded = {k: [n for n in v if n not in gains] if isinstance(v, list) else v for k, v in rounded.items()}
    return {**data, "layers": new, "rounded": rounded}, old


def _spec(layer: Mapping[str, Any]) -> Mapping[str, Any]:
    return found if isinstance(found := layer.get("spec"), Mapping) else {}


def _layer(layer: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in layer.items() if key not in ("spec", "geometry")}
    new = upgraded(_spec(layer), "strided")
    if _is_sum(_spec(layer)):
        new["rule"] = "interpolated"  # the rule that stores its table of offsets now
    if isinstance(kept.get("coding"), Mapping):
        kept["coding"] = {key: value for key, value in kept["coding"].items() if key != "gains"}
    return {**kept, "method": "summary", "settings": {"spec": new, "geometry": layer.get("geometry")}}


def upgraded_tensors(
    old: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of format 3 from those of format 2, and the gains of layers that had them, by layer name."""
    kept, gains = dict(tensors), {}
    owned = by_owner(tensors, old)
    for name, layer in old.items():
        start = f"{name}." if name else ""
        own = owned.get(name, {})
        for key in own:
            del kept[f"{start}{key}"]
        if _is_sum(_spec(layer)):
            parts = {key: own.pop(key) for key in list(own) if key.startswith("offsets.")}
            own |= _summed_offsets(layer, parts)
        found = {key: own.pop(key) for key in list(own) if key.split(".")[0] == "gains"}
        if found:
            gains[name] = _gains(layer, found)
        kept |= {f"{start}{key}": tensor for key, tensor in own.items()}
    return kept, gains


def upgraded_state(state: Mapping[str, Tensor], path: object) -> dict[str, Tensor]:
    """The state of a checkpoint without what only the training with earlier options needed.

    Raises:
        ArtifactError: Its layers had gains or offsets of two rules, which change what is stored.
    """
    if any(key.endswith("gains") or ".offsets.along." in key for key in state):
        raise ArtifactError(
            f'this version reads no checkpoint with gains or the rule "separable", got {path}: export it with version '
            "0.1.0 (autosample export CHECKPOINT --format artifact) and load the result"
        )
    chosen = {key.removesuffix("logits"): logits for key, logits in state.items() if key.endswith("columns.logits")}
    kept = {key: value for key, value in state.items() if not key.endswith(("offsets.width", "columns.logits"))}
    for start, logits in chosen.items():
        frozen = [kept.pop(start + name) for name in ("frozen", "frozen_bits") if start + name in kept]
        if not any(bool(flag.any()) for flag in frozen):
            kept.pop(f"{start}chosen_bits", None)
            kept[f"{start}chosen"] = logits.argmax(-1)  # what the highest score selects
    return kept


def _is_sum(old: Mapping[str, Any]) -> bool:
    """Whether offsets were a sum of two rules (`separable`) other than WSNet's, which is a plain stride."""
    fixed = old.get("along", "strided") == "strided" and old.get("spread", 0.25) == 0
    return old.get("rule") == "separable" and not fixed


def _summed_offsets(layer: Mapping[str, Any], parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The table of `o[n, g] = a[n] + δ[g]`."""
    lattice, old = Lattice.of(read_geometry(layer["geometry"])), _spec(layer)
    across = int(as_float(old.get("spread", 0.25), "spread") * (lattice.choices - 1)) * lattice.grid
    along = Lattice(lattice.filters, 1, lattice.last - across, lattice.grid)
    over = Lattice(1, lattice.windows, across, lattice.grid)
    table = _part(along, parts, "offsets.along.") + _part(over, parts, "offsets.across.")
    return {f"offsets.{key}": tensor for key, tensor in lattice.pack(lattice.steps(table)).items()}


def _part(lattice: Lattice, parts: Mapping[str, Tensor], start: str) -> Tensor:
    own = {key[len(start) :]: tensor for key, tensor in parts.items() if key.startswith(start)}
    if "seed" in own:
        table = random_offsets(own["seed"], lattice.filters, lattice.windows, lattice.choices)
        return table * lattice.grid
    if "table" in own or lattice.choices == 1:
        return lattice.offsets(lattice.unpack(own))
    if lattice.filters > 1:
        return lattice.strided()
    return Lattice(lattice.windows, 1, lattice.limit, lattice.grid).strided().t()  # a single filter: along its windows


def _gains(layer: Mapping[str, Any], found: Mapping[str, Tensor]) -> Tensor:
    """Learned factors of a layer, `(N, 1)` or `(N, G)`."""
    g = read_geometry(layer["geometry"])
    shape = (g.sampled, g.windows if _spec(layer).get("gains") == "window" else 1)
    if "gains" in found:
        return found["gains"].float().view(shape)
    coding = layer["coding"]["gains"]
    quantizer = QUANTIZERS[coding["method"]](coding["bits"])
    return quantizer.unpacked(found["gains.codes"], found[f"gains.{quantizer.table}"], torch.empty(shape))


@torch.no_grad()
def multiply_gains_(model: nn.Module, gains: Mapping[str, Tensor]) -> None:
    """Layers that had gains become dense layers that store every weight."""
    for name, factor in gains.items():
        layer: Any = model.get_submodule(name)
        g, mix, layer.densify = layer.geometry, layer.densify, None
        sampled = layer.weight
        weight = g.to_weight(g.to_windows(sampled) * factor[:, :, None, None].to(sampled.dtype))
        if mix is not None:
            weight = (mix @ weight.flatten(1)).view(-1, *weight.shape[1:])
        dense = layer.to_dense_()
        dense.weight = nn.Parameter(weight)
        CodedLayer.take_over(dense, spec("dense"), name)
