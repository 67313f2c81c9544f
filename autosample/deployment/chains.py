"""What follows each convolution and linear layer directly: the norm, ReLU and max-pooling that can be fused with it.

The model is run once. Hooks show which module makes a tensor and which takes it; two modes of torch show what else uses
it. `TorchFunctionMode` sees calls from Python, including reads that run no operator (`tolist`, `data_ptr`);
`TorchDispatchMode` sees the operators of scripted and C++ code, which the former does not see. Memory that is still
alive after the run is in use. Tensors are identified by their storage, so a view counts as the tensor itself.
"""

import gc
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from autosample.errors import ConversionError
from autosample.nn import outer_modules
from autosample.system.hooks import has_hooks

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_POOLS = {nn.Conv1d: nn.MaxPool1d, nn.Conv2d: nn.MaxPool2d}
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
# in the order in which they may follow a layer; a max-pool and a ReLU may be swapped, because they commute
_STEPS = ("norm", "activation", "pool")
# Reading these reveals nothing about a tensor's numbers.
_ABOUT = (
    "shape", "dtype", "device", "layout", "ndim", "itemsize", "nbytes", "requires_grad", "is_leaf",
    "is_cpu", "is_cuda", "is_meta", "is_mps", "is_xpu", "is_sparse", "is_quantized", "is_mkldnn", "is_nested",
    "size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "element_size", "get_device",
    "is_contiguous", "is_floating_point", "is_complex", "is_signed", "is_inference", "is_same_size", "__len__",
)  # fmt: skip
_ATTRIBUTES = [getattr(Tensor, name) for name in _ABOUT if hasattr(Tensor, name)]
_METADATA = {a if callable(a) else a.__get__ for a in _ATTRIBUTES} | {torch.numel, torch.is_floating_point}


@dataclass(frozen=True)
class Chain:
    """What follows a layer directly: only the next step sees the output of the step before.

    Attributes:
        layer: Name of a `Conv1d`, `Conv2d`, `Conv3d` or `Linear`, or of a subclass of them.
        norm: Name of a batch norm with running statistics over the layer's output channels.
        activation: Name of an `nn.ReLU`; inside a timm `BatchNormAct2d` it is `"<norm>.act"`.
        pool: Name of an `nn.MaxPool1d` or `MaxPool2d` over the output of the convolution.
        lent: Whether anything but the layer itself uses its parameters.
    """

    layer: str
    norm: str | None = None
    activation: str | None = None
    pool: str | None = None
    lent: bool = field(default=False, compare=False)


def find_chains(model: nn.Module, example: Tensor | tuple) -> dict[str, Chain]:
    """The chain of every convolution and linear layer, by the layer's name, found in one run of the model.

    A chain ends where anything is uncertain: at a module that is called twice, has hooks of the user, or is registered
    under two names (the layer itself may be); at a parametrized norm; at a tensor that something else reads, keeps or
    returns. Modules that return their input unchanged (`nn.Identity`, dropout) are skipped.

    A model in training mode is judged as after `model.eval()`. Modules that are in training mode inside a model in
    evaluation mode are left out. The model is left unchanged, even if its forward pass raises.

    Args:
        model: A model, converted or not.
        example: An input (or a tuple of inputs) for one forward pass in evaluation mode without gradients.
    """
    trace = _Trace(_roles(model))
    inputs = tree_map_only(Tensor, torch.clone, example)  # the model may start with an in-place ReLU
    with _undisturbed(model), trace.hooks(), _Operators(trace.see), _Functions(trace.see):
        output = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    trace.finish()
    del output  # kept until here: what the model returns is in use
    names = {module: name for name, module in outer_modules(model)}
    return {name: _follow(trace, layer, names) for layer, name in names.items() if isinstance(layer, _LAYERS)}


@torch.no_grad()
def norm_affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """`(scale, shift)` per channel, float64, such that the eval-mode norm is `y = x·scale + shift`.

    Raises:
        ConversionError: The module is not a batch norm with running statistics.
    """
    mean, var = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
    if not isinstance(norm, _BatchNorm) or mean is None or var is None:
        kind = type(norm).__name__
        raise ConversionError(f"only a batch norm with running statistics is affine, got {kind}: do not fold it")
    scale = (var.double() + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight.double())
    return scale, (0.0 if norm.bias is None else norm.bias.double()) - mean.double() * scale


def _roles(model: nn.Module) -> dict[nn.Module, str]:
    """The modules to hook: `layer`, one of `_STEPS`, `passer` (returns its input) or `watched`.

    Inputs and outputs of a watched module count as used: hooks of the user see them or, in a module left in training
    mode, something happens to them that an evaluation pass does not show.
    """
    training = _in_training(model)
    registered = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    roles = {}
    for _, module in outer_modules(model):
        if has_hooks(module) or (module in training and model not in training):
            roles[module] = "watched"
        elif isinstance(module, _LAYERS):
            roles[module] = "layer"
        elif "forward" in vars(module):  # patched, so it may do anything
            continue
        elif type(module) in _DROPOUTS:
            roles[module] = "passer"
        elif registered[module] == 1 and (step := _step(module)) is not None:
            roles[module] = step
    return roles


def _step(module: nn.Module) -> str | None:
    """Which step a module is, by its exact type: a subclass (parametrized modules, for example) may do anything."""
    if type(module) is nn.ReLU:
        return "activation"
    if isinstance(module, nn.MaxPool1d | nn.MaxPool2d) and type(module) in _POOLS.values():
        return "pool" if not module.return_indices else None
    if isinstance(module, _BatchNorm) and type(module) in (*_NORMS, _timm_norm()):
        tracked = module.track_running_stats and module.running_mean is not None and module.running_var is not None
        return "norm" if tracked else None
    return None


def _timm_norm() -> type | None:
    """timm's `BatchNormAct2d`, if timm is imported."""
    return getattr(sys.modules.get("timm.layers.norm_act"), "BatchNormAct2d", None)


def _follow(trace: "_Trace", layer: nn.Module, names: dict[nn.Module, str]) -> Chain:
    """The longest chain after a layer with steps in the order of `_STEPS`."""
    found: dict[str, str] = {}
    allowed, at = _allowed(trace, layer), layer
    while (step := trace.reader(at)) is not None and (role := trace.roles[step]) in allowed:
        drop, act = (getattr(step, part, None) if type(step) is _timm_norm() else None for part in ("drop", "act"))
        if drop is not None and not trace.passes(drop):
            break
        if role == "pool" and not any(isinstance(layer, c) and type(step) is p for c, p in _POOLS.items()):
            break  # over channels, for example
        found[role], at = names[step], step
        swapped = role == "pool" and "activation" in allowed
        allowed = ("activation",) if swapped else allowed[allowed.index(role) + 1 :]
        if act is not None and not trace.passes(act):
            if trace.roles.get(act) != "activation" or trace.calls[act] != 1:
                break
            found["activation"], allowed = names[act], ("pool",) if "pool" in allowed else ()
    return Chain(names[layer], **found, lent=layer in trace.borrowed)


def _allowed(trace: "_Trace", layer: nn.Module) -> tuple[str, ...]:
    """The steps that fit a layer: norm and pool expect the channels and axes of its output in certain places."""
    value = trace.made.get(layer)
    rank = 2 + len(getattr(layer, "kernel_size", ()))
    batched = value is not None and value.rank == rank
    return tuple(step for step, fit in zip(_STEPS, (batched, True, batched), strict=True) if fit)


@dataclass(eq=False)
class _Value:
    """The output of a layer or step, until an in-place operation changes its memory.

    Attributes:
        tensor: The tensor object that the module returned.
        readers: The steps that took exactly this object.
        used: Whether anything except these steps saw the tensor or an alias of it.
        replaced: Whether a later step overwrote it.
    """

    tensor: ref[Tensor]
    storage: StorageWeakRef
    rank: int
    readers: list[nn.Module] = field(default_factory=list)
    used: bool = False
    replaced: bool = False

    @property
    def kept(self) -> bool:
        """Whether something still holds the memory."""
        return not self.replaced and not self.storage.expired()


class _Trace:
    """What happens in one run to the outputs of layers and steps, and to the parameters of layers and norms."""

    def __init__(self, roles: dict[nn.Module, str]) -> None:
        self.roles = roles
        self.calls: Counter[nn.Module] = Counter()
        self.made: dict[nn.Module, _Value] = {}
        # keys are unique: a weak reference to a storage prevents the reuse of its address
        self._values: dict[int, _Value] = {}
        self._open: list[nn.Module] = []
        self.borrowed: set[nn.Module] = set()  # modules whose parameters are used from outside
        self._owners: defaultdict[int, list[nn.Module]] = defaultdict(list)
        for module, role in roles.items():
            for tensor in (*module.parameters(), *module.buffers()) if role in ("layer", "norm") else ():
                self._owners[id(tensor)].append(module)

    @contextmanager
    def hooks(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module in self.roles:
                stack.enter_context(module.register_forward_pre_hook(self._enter, with_kwargs=True))
                # also after an error, because the model may catch it
                stack.enter_context(module.register_forward_hook(self._leave, with_kwargs=True, always_call=True))
            yield

    def see(self, *objects: Any) -> None:
        """Note a use of tensors. Uses inside a known step are known already."""
        if not any(self.roles[module] in (*_STEPS, "passer") for module in self._open):
            self._use(*objects)

    def _use(self, *objects: Any) -> None:
        for tensor in _tensors(objects):
            self.borrowed.update(owner for owner in self._owners.get(id(tensor), ()) if owner not in self._open)
            if (value := self._value(tensor)) is not None:
                value.used = True

    def _value(self, tensor: Tensor) -> _Value | None:
        storage = _storage(tensor)
        return None if storage is None else self._values.get(storage.cdata)

    def _enter(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.calls[module] += 1
        self._open.append(module)
        role, value = self.roles[module], None
        if role not in ("layer", "watched") and len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
            value = self._value(args[0])
        if value is None or value.tensor() is not args[0]:
            self._use(args, kwargs)
        elif role != "passer":
            value.readers.append(module)

    def _leave(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if self._open and self._open[-1] is module:  # else an error came before `_enter`
            self._open.pop()
        role = self.roles[module]
        if role == "watched" or (role == "passer" and not (args and output is args[0])):
            self._use(args, kwargs, output)
        elif role != "passer" and type(output) is Tensor and (storage := _storage(output)) is not None:
            if (before := self._values.get(storage.cdata)) is not None:
                before.replaced = True
            value = _Value(ref(output), storage, output.dim())
            self.made[module] = self._values[storage.cdata] = value

    def finish(self) -> None:
        """Count everything that is still held as used, except garbage. Call it while the model's output is alive."""
        if any(value.kept for value in self.made.values() if value.readers and not value.used):
            gc.collect()
        for value in self.made.values():
            value.used |= value.kept

    def reader(self, module: nn.Module) -> nn.Module | None:
        """The step that takes a module's output, if nothing else sees the output."""
        value = self.made.get(module)
        if value is None or value.used or len(value.readers) != 1:
            return None
        pair = (module, value.readers[0])
        return None if any(self.calls[m] != 1 or m in self.borrowed for m in pair) else pair[1]

    def passes(self, module: Any) -> bool:
        """Whether a module only returns its input."""
        return self.roles.get(module) == "passer" or (type(module) is nn.Identity and module not in self.roles)


class _Functions(TorchFunctionMode):
    """Reports every torch function that Python code calls."""

    def __init__(self, see: Callable[..., None]) -> None:
        super().__init__()
        self.see = see

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func not in _METADATA:
            self.see(args, kwargs)
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    """Reports every operator that runs, from any caller."""

    supports_higher_order_operators = True

    def __init__(self, see: Callable[..., None]) -> None:
        super().__init__()
        self.see = see

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.see(args, kwargs)
        return func(*args, **(kwargs or {}))


def _in_training(model: nn.Module) -> set[nn.Module]:
    """The modules in training mode; frozen scripted modules have no modes."""
    return {module for module in model.modules() if getattr(module, "training", False)}


def _tensors(nested: Any) -> Iterator[Tensor]:
    """The tensors in arguments or outputs."""
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, tuple | list | dict):
        for item in nested.values() if isinstance(nested, dict) else nested:
            yield from _tensors(item)


def _storage(tensor: Tensor) -> StorageWeakRef | None:
    """The memory behind a tensor, if it has its own memory (sparse tensors do not)."""
    with torch._C.DisableTorchFunction():  # or the trace would see this too
        try:
            return StorageWeakRef(tensor.untyped_storage())
        except (NotImplementedError, RuntimeError):
            return None


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; modes, buffers and random numbers are restored afterwards."""
    training = _in_training(model)
    buffers = [(m._buffers, dict(m._buffers)) for m in model.modules() if isinstance(m._buffers, dict)]
    copies = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.no_grad(), torch.random.fork_rng({p.device for p in model.parameters() if p.is_cuda}):
        try:
            for module in training:  # one by one, because `model.eval()` may be overridden to do more
                module.training = False
            yield
        finally:
            for module in training:
                module.training = True
            for own, before in buffers:
                own.clear()
                own.update(before)
            for buffer, copy in copies:
                if not buffer.is_meta and not torch.equal(buffer, copy):
                    buffer.copy_(copy)
