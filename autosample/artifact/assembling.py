"""From a configuration and its tensors to the model. Everything is checked before use."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autosample.artifact.building import Factory, build
from autosample.artifact.config import DTYPES, Config, LayerConfig
from autosample.artifact.upgrade import by_owner, multiply_gains_, upgraded_tensors
from autosample.coding.quantizer import Quantizer
from autosample.coding.quantizers import QUANTIZERS
from autosample.errors import DAMAGED, ArtifactError, AutosampleError, one_line
from autosample.model.report import note_reason
from autosample.nn import Compressed, outer_modules
from autosample.nn.becoming import method_called
from autosample.nn.kinds import is_kind
from autosample.nn.stored import compact_state, own_tensors, shared_names, store_as

#: the fix if the built model and the file do not fit
OTHERWISE = "use another copy, or the factory and the timm version that it was saved with"


def assemble(config: Config, tensors: Mapping[str, Tensor], factory: Factory | None = None) -> nn.Module:
    """The model described by a configuration and its tensors, hardened and in evaluation mode.

    Raises:
        ArtifactError: They do not fit together.
    """
    try:
        return _assemble(config, tensors, factory)
    except AutosampleError as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"config and tensors do not fit together: {one_line(error)}") from error
    except (ArithmeticError, AttributeError, IndexError, LookupError, MemoryError, RuntimeError, TypeError) as error:
        text = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise ArtifactError(f"config and tensors do not fit together ({text}): {DAMAGED}") from error


def _assemble(config: Config, tensors: Mapping[str, Tensor], factory: Factory | None) -> nn.Module:
    model = build(config.source, factory, tensors)
    kinds = _types(model)
    tensors, gains = upgraded_tensors(config.old_layers, tensors)
    for name, layer in config.layers.items():
        _convert(_find(model, name), layer, name)
    for name, first in config.shared.items():
        _tie(model, name, first)
    _attach_quantizers(model, config)
    shared = shared_names(model)
    _check(model, tensors, config.rounded)
    modules = dict(outer_modules(model))
    own, rounded = by_owner(tensors, modules), by_owner(config.rounded, modules)
    for prefix, module in modules.items():
        _fill(module, own.get(prefix, {}), rounded.get(prefix, {}))
    for name, first in shared.items():
        _tie(model, name, first)
    for name, reason in config.left_dense.items():
        note_reason(_find(model, name), reason)
    _finish(model)
    if factory is None:
        _check_types(model, kinds)
    multiply_gains_(model, gains)
    return model


def _find(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise ArtifactError(f"the model has no layer {name[:80]!r}, which config.json names: {OTHERWISE}") from error


def _convert(layer: nn.Module, config: LayerConfig, name: str) -> None:
    method = method_called(config.method)
    if method is None:
        raise ArtifactError(
            f'layer "{name[:80]}" needs the method {config.method[:80]!r}, which this process does not have: import '
            "the module that adds it to autosample.sampling.RULES"
        )
    if not is_kind(layer) or layer._parameters.get("weight") is None:
        raise ArtifactError(
            f'layer "{name[:80]}" is a {type(layer).__name__}, which cannot be compressed: the model was built with '
            "other arguments than it was saved with"
        )
    try:
        method.rebuilt(layer, config.settings, name).fit_error = config.fit_error
    except ArtifactError as error:
        raise ArtifactError(f'layer "{name[:80]}" cannot be rebuilt: {error}') from error


def _attach_quantizers(model: nn.Module, config: Config) -> None:
    made: dict[int, Quantizer] = {}
    for name, layer in config.layers.items():
        target = _find(model, name)
        assert isinstance(target, Compressed)
        for key, coding in layer.coding.items():
            parameter = getattr(target, key) if key in target.coded else None
            if parameter is None:
                raise ArtifactError(f'layer "{name[:80]}" has no {key[:80]!r} to quantise: {DAMAGED}')
            parameter.data = parameter.data.to(DTYPES[coding.dtype])
            if id(parameter) not in made:
                vectors: Any = {"vector": coding.vector} if coding.vector > 1 else {}  # only codebooks take it
                made[id(parameter)] = QUANTIZERS[coding.method](coding.bits, **vectors)
                made[id(parameter)].fix(parameter)
            target.quantise_with(key, made[id(parameter)])


def _check(model: nn.Module, got: Mapping[str, Tensor], rounded: Mapping[str, str]) -> None:
    """Names, shapes and precisions of tensors must match the model."""
    expected, start = compact_state(model), lambda prefix: f"{prefix}." if prefix else ""
    # tensors of the module: the file gives their precision. Codes, levels and offsets have only one
    plain = {start(prefix) + name for prefix, module in outer_modules(model) for name in own_tensors(module)}
    for name, there in (("missing", set(expected) - set(got)), ("unknown", set(got) - set(expected))):
        if there:
            few = ", ".join(sorted(there)[:3])
            raise ArtifactError(
                f"the tensors are not those of the model, {len(there)} are {name} ({few[:200]}): {OTHERWISE}"
            )
    if unknown := set(rounded) - set(got):
        raise ArtifactError(f"the file lacks the rounded tensor {sorted(unknown)[0][:80]!r}: {DAMAGED}")
    for name, wanted in expected.items():
        tensor = got[name]
        if tensor.shape != wanted.shape:
            raise ArtifactError(
                f'tensor "{name}" must have the shape {tuple(wanted.shape)}, got {tuple(tensor.shape)}: {OTHERWISE}'
            )
        both = tensor.dtype.is_floating_point and wanted.dtype.is_floating_point and name in plain
        if tensor.dtype != wanted.dtype and not (both and tensor.dtype in DTYPES.values()):
            raise ArtifactError(f'tensor "{name}" must be {wanted.dtype}, got {tensor.dtype}: {OTHERWISE}')
        full = DTYPES.get(rounded.get(name, ""))
        if full is not None and (not both or full.itemsize <= tensor.dtype.itemsize):
            raise ArtifactError(f'tensor "{name}" cannot be rounded from {full} to {tensor.dtype}: {DAMAGED}')


def _types(model: nn.Module) -> set[torch.dtype]:
    """The precisions of the tensors that a model computes with, except in norms."""
    own = (t for _, module in outer_modules(model) if not _is_norm(module) for t in own_tensors(module).values())
    return {t.dtype for t in own if t.dtype.is_floating_point}


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _check_types(model: nn.Module, built: set[torch.dtype]) -> None:
    """Tensors must have one precision, or a model loads and cannot run. Norms of half-precision ones may be float32."""
    found = _types(model)
    if len(found) > max(len(built), 1):
        raise ArtifactError(f"the tensors of a model must have one precision, got {_told(found)}: {OTHERWISE}")
    for name, module in outer_modules(model) if len(found) == 1 else ():
        kinds = {t.dtype for t in own_tensors(module).values() if t.dtype.is_floating_point}
        (kind,) = found
        wide = {torch.float32} if kind.itemsize < torch.float32.itemsize else set()
        if _is_norm(module) and not any(kinds <= fitting for fitting in ({kind}, wide)):
            raise ArtifactError(
                f'the norm "{name[:80]}" must have the precision {kind} of the model, got {_told(kinds)}: {OTHERWISE}'
            )


def _told(kinds: set[torch.dtype]) -> str:
    return " and ".join(sorted(str(kind)[6:] for kind in kinds))


def _fill(module: nn.Module, own: dict[str, Tensor], rounded: Mapping[str, str]) -> None:
    """Set a module's tensors. Shared ones appear only under their first name."""
    for name, old in own_tensors(module).items():
        quantizer = module.quantizer(name) if isinstance(module, Compressed) else None
        if quantizer is not None and f"{name}.codes" in own:
            value = quantizer.unpacked(own[f"{name}.codes"], own[f"{name}.{quantizer.table}"], old)
        elif name in own:
            value = own[name].to(DTYPES[rounded[name]]) if name in rounded else own[name]
            if name in rounded:
                store_as(module, name, own[name].dtype)
        else:
            continue
        if name in module._parameters:
            module._parameters[name] = nn.Parameter(value, requires_grad=old.requires_grad)
        else:
            module._buffers[name] = value
    if isinstance(module, Compressed):
        module.restore_(own)


def _tie(model: nn.Module, name: str, first: str) -> None:
    """Make a parameter or buffer the same as the one of another name."""
    (to, key), (of, source) = ((_find(model, n.rpartition(".")[0]), n.rpartition(".")[2]) for n in (name, first))
    for store in ("_parameters", "_buffers"):
        mine, theirs = getattr(to, store).get(key), getattr(of, store).get(source)
        if mine is not None and theirs is not None:
            if mine.shape != theirs.shape:
                break
            getattr(to, store)[key] = theirs
            return
    raise ArtifactError(f"{name[:80]!r} and {first[:80]!r} cannot share a tensor: {OTHERWISE}")


def _finish(model: nn.Module) -> None:
    """Every tensor must have values, unless it is empty."""
    for name, module in model.named_modules():
        for store in (module._parameters, module._buffers):
            for key, tensor in store.items():
                if tensor is None or not tensor.is_meta:
                    continue
                if tensor.numel():
                    raise ArtifactError(f"{name}.{key} has no values after loading: save the model again")
                store[key] = torch.empty_like(tensor, device="cpu")  # pyright: ignore[reportArgumentType]
    model.eval()
