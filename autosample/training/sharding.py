"""Sharded training: each process holds a part of every parameter. Lightning knows the strategy as `sharded`."""

import inspect
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from types import MethodType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import StochasticWeightAveraging, WeightAveraging
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy, Strategy, StrategyRegistry
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from autosample.errors import ConfigError
from autosample.nn import Compressed, compressed_layers
from autosample.sampling import Offsets
from autosample.training.clustering import ClusterPenalty
from autosample.training.devices import share
from autosample.training.pieces import own_piece, piece_like, put_together
from autosample.training.quantizing import FakeQuantize

_S = "--trainer.strategy"
_DDP = f"use {_S} ddp"
_PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-true")
# whether torch can leave some parameters whole
_CAN_KEEP = "ignored_params" in inspect.signature(fully_shard).parameters
# they read or write numbers between steps
_BETWEEN_STEPS = (FakeQuantize, ClusterPenalty, StochasticWeightAveraging)
# what a checkpoint has for each tensor of a module; averages add the second
_STATES = {"state_dict", "current_model_state"}


class Sharded(ModelParallelStrategy):
    """FSDP2 of torch over all processes, with checkpoints like those of other trainings: one file with whole tensors.

    So they can be read, continued and saved with any number of processes, sharded or not. Lightning's own way would not
    read them by the trainer's plugin, and would take the parameters of an optimizer in another order. Checkpoints in
    pieces hold pickles.

    Args:
        options: `process_group_backend` and `timeout`, as for `ModelParallelStrategy`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **options)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return Strategy.optimizer_state(self, optimizer)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        whole = put_together(checkpoint, self.is_global_zero)
        Strategy.save_checkpoint(self, whole, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        for key in _STATES & checkpoint.keys():  # in place: averages take theirs after this
            checkpoint[key] = {name: piece_like(tensor, own.get(name)) for name, tensor in checkpoint[key].items()}
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        states = [_pieces(saved, o) for saved, o in zip(checkpoint["optimizer_states"], self.optimizers, strict=False)]
        Strategy.load_optimizer_state_dict(self, {"optimizer_states": states})


def _pieces(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A whole state of an optimizer, with this process's pieces of what has a number for each of a parameter's."""
    numbers = chain.from_iterable(group["params"] for group in saved["param_groups"])
    parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
    like = dict(zip(numbers, parameters, strict=False))
    state = {
        number: {name: piece_like(value, like.get(number)) for name, value in values.items()}
        for number, values in saved["state"].items()
    }
    return {**saved, "state": state}


StrategyRegistry.register("sharded", Sharded, "FSDP2 over all processes, with checkpoints of one file")


def check_strategy(trainer: pl.Trainer) -> None:
    """Raise `ConfigError` if the strategy of a trainer shards nets, but not in the way that nets here allow."""
    strategy = trainer.strategy
    if isinstance(strategy, FSDPStrategy | ModelParallelStrategy) and not isinstance(strategy, Sharded):
        raise ConfigError(
            f"nets are sharded by a strategy of their own, got {type(strategy).__name__}: use {_S} sharded"
        )
    if not isinstance(strategy, Sharded):
        return
    if trainer.precision not in _PRECISIONS:
        raise ConfigError(
            f"sharded nets train in {', '.join(_PRECISIONS)}, got precision {trainer.precision}: choose one of them, "
            f"or {_DDP}"
        )
    if isinstance(strategy._layer_sync, TorchSyncBatchNorm):
        raise ConfigError(
            f"sharded nets have batch norms for each process, got sync_batchnorm: leave it out, or {_DDP}"
        )


def check_sharding(trainer: pl.Trainer, net: nn.Module) -> None:
    """Check whether a trainer can shard a net, if it is told to.

    Raises:
        ConfigError: The net, the callbacks or the strategy do not allow it.
    """
    check_strategy(trainer)
    sharding = isinstance(trainer.strategy, Sharded)
    if isinstance(net, FSDPModule) and (not sharding or (trainer.training and _averages(trainer))):
        raise ConfigError(
            "a net that was sharded stays in pieces and cannot be copied, got another strategy or an average of it: "
            "load its checkpoint in a new Classifier"
        )
    if sharding and (found := _outside(trainer, net)):
        raise ConfigError(
            f"a net can be sharded if nothing reads or changes its numbers between steps, got {found}: {_DDP}"
        )


def prepare_sharding(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Let a trainer shard the net of a module if it is told to, and averages of the net like it.

    This must come after averages have copied the net, as a sharded one cannot be copied: in `setup` of the module.
    """
    if isinstance(trainer.strategy, Sharded):
        # on the module itself: Lightning's averages of models do not go with classes that define this
        module.configure_model = MethodType(_shard, module)
        module.configure_gradient_clipping = MethodType(_clip, module)


def _averages(trainer: pl.Trainer) -> list[WeightAveraging]:
    callbacks: list[pl.Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    return [one for one in callbacks if isinstance(one, WeightAveraging)]


def _outside(trainer: pl.Trainer, net: nn.Module) -> str:
    """What needs numbers of a net between its forward passes; empty if nothing does."""
    callbacks: list[pl.Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    if found := next((one for one in callbacks if isinstance(one, _BETWEEN_STEPS)), None):
        return type(found).__name__
    for name, layer in compressed_layers(net).items():
        if learns := _learns(layer):
            return f'{learns} in "{name}"'
    scalar = next((name for name, p in net.named_parameters() if not p.ndim), None)
    return f'"{scalar}", a single number that cannot be cut' if scalar else ""


def _learns(layer: Compressed) -> str:
    """What a layer learns besides its numbers, if that does not go with sharding; empty if nothing."""
    if layer.quantizers is not None:
        return "levels"
    rule = getattr(layer, "offsets", None)
    if isinstance(rule, Offsets) and _learns_whole(rule):
        return ""
    inner = isinstance(rule, Offsets) and (rule.learned or rule.watches_input or any(True for _ in rule.parameters()))
    return f"the rule {layer.spec.rule}, which learns," if inner or layer.learns_until or layer.open_stages else ""


def _learns_whole(rule: Offsets) -> bool:
    """Whether each process can hold all that a rule learns, apart from the numbers: positions, scores or signs.

    Those have a group of their own in the optimizer, which cannot mix whole tensors with pieces. Moves of filters need
    the numbers, and rules that watch the input have learners that learn like the weights.
    """
    if not rule.learned or rule.watches_input or rule.moves is not None or not _CAN_KEEP:
        return False
    return {id(p) for p in rule.parameters()} <= {id(p) for p in rule.rated()}


def _whole(net: nn.Module) -> set[nn.Parameter]:
    """The parameters that each process holds."""
    rules = [getattr(layer, "offsets", None) for layer in compressed_layers(net).values()]
    return {p for rule in rules if isinstance(rule, Offsets) for p in rule.parameters()}


def _shard(module: Any) -> None:
    """Shard the net of a `Classifier` and the averages of it; in the place of its `configure_model`."""
    copies = [one._average_model for one in _averages(module.trainer)]
    for owner in (module, *(copy.module for copy in copies if copy is not None)):
        _cut(owner.net, module)


def _clip(
    module: Any, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
) -> None:
    """Clip gradients like Lightning, which cannot do it where some are whole and others in pieces."""
    if not gradient_clip_val:
        return
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    own = [own_piece(gradient) for gradient in gradients]
    if gradient_clip_algorithm == "value":
        for piece in own:
            piece.clamp_(-gradient_clip_val, gradient_clip_val)
        return
    sums = torch.zeros(2, device=module.device)  # of squares, in pieces and in whole gradients
    for gradient, piece in zip(gradients, own, strict=True):
        sums[int(piece is gradient)] += piece.float().square().sum()
    norm = (module.trainer.strategy.reduce(sums[:1].clone(), reduce_op="sum") + sums[1:]).sqrt()
    for piece in own:
        piece.mul_((gradient_clip_val / (norm + 1e-6)).clamp(max=1).to(piece.dtype))


def _cut(net: Any, module: Any) -> None:
    if isinstance(net, FSDPModule):
        return
    # its numbers are those of the first process, as with ddp
    share(module.trainer, chain(net.named_parameters(), net.named_buffers()))
    mesh, whole = module.device_mesh["data_parallel"], _whole(net)
    kept: Any = {"ignored_params": whole} if whole else {}  # torch 2.6 does not know it
    for part in (*blocks(net), net):
        fully_shard(part, mesh=mesh, reshard_after_forward=True, **kept)

    def average(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        parameter.grad.copy_(module.trainer.strategy.reduce(parameter.grad, reduce_op="mean"))

    for parameter in whole:  # the gradients of pieces are averaged by torch
        parameter.register_post_accumulate_grad_hook(average)


def blocks(net: nn.Module) -> list[nn.Module]:
    """The parts of a net that are put together one at a time: modules in a row that share no numbers with others."""
    uses = _uses(net)
    return [block for block in _in_rows(net) if all(uses[key] == count for key, count in _uses(block).items())]


def _uses(module: nn.Module) -> Counter[int]:
    """In how many places of a module each of its parameters is."""
    return Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))


def _in_rows(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules in a row that have weights. Their containers are not always called themselves."""
    for part in module.children():
        if isinstance(part, nn.Sequential | nn.ModuleList) or not isinstance(module, nn.Sequential | nn.ModuleList):
            yield from _in_rows(part)
        elif any(parameter.ndim > 1 for parameter in part.parameters()):
            yield part
