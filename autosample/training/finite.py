"""The policy for numbers that are not finite: stop at once, and say where they come from."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from autosample.errors import ConfigError, TrainingError, hint
from autosample.model.finite import is_finite
from autosample.training.pieces import own_piece

#: `detect` stops the training and names the layer; `ignore` goes on.
NanPolicy = Literal["detect", "ignore"]
# With a gradient scaler, so many losses in a row may be infinite or NaN: it skips these steps.
_SKIPPED = 20
_FIX = "lower lr, set --trainer.gradient_clip_val 1, or use --trainer.precision 32"


def check_policy(policy: str) -> None:
    """Raise `ConfigError` unless this is a policy."""
    known = get_args(NanPolicy)
    if policy not in known:
        raise ConfigError(f"nan_policy must be one of {', '.join(known)}, got {policy!r}: {hint(str(policy), known)}")


class FiniteCheck(pl.Callback):
    """Stops the training at the first loss that is not finite, and names the layer where this began.

    `Classifier` adds it unless its `nan_policy` is `ignore`. It reads one number per step, the loss. Only when this is
    not finite, it looks for the layer: the last whose gradients in the step before, or whose parameters, are not finite
    (they spread back from there), else the first whose output for this batch is not. Steps that a gradient scaler
    (`16-mixed`) skips do not count.

    Several processes stop together, in the step after such a loss: then the parameters of all are not finite.

    Raises:
        TrainingError: A loss is not finite, or 20 in a row with a gradient scaler.
    """

    def __init__(self) -> None:
        self._batch: Any = None
        self._gradients: dict[str, Tensor] = {}  # the largest of each parameter, in the last step
        self._skipped = 0
        self._found = ""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        self._batch = batch

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        if not trainer.gradient_clip_val:
            return  # a gradient that is not finite shows in its own parameter alone
        # before they are clipped, which spreads NaN; nothing waits for these numbers
        known = {name: own_piece(p.grad) for name, p in _net(pl_module).named_parameters() if p.grad is not None}
        if known:
            sizes = torch._foreach_norm(list(known.values()), float("inf"))  # pyright: ignore[reportPrivateImportUsage]
            self._gradients = dict(zip(known, sizes, strict=True))

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        if bool(torch.isfinite(loss)):
            self._skipped = 0
            return
        self._skipped += 1
        scaled, several = getattr(trainer.precision_plugin, "scaler", None) is not None, trainer.world_size > 1
        if scaled and (several or self._skipped < _SKIPPED):
            return
        net = _net(pl_module)
        where = self._found or self._where(trainer, net)
        if several and not _told(net, {}):
            self._found = where  # the mean of all gradients will make the parameters of every process NaN
            return
        raise TrainingError(f"the loss of step {trainer.global_step} is not finite: {where}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        check_parameters(_net(pl_module), self._gradients)

    def _where(self, trainer: pl.Trainer, net: nn.Module) -> str:
        x = self._batch[0] if isinstance(self._batch, list | tuple) else self._batch
        if isinstance(x, Tensor) and not is_finite(x):
            return "the batch has such numbers: look at the data"
        if told := _told(net, self._gradients):
            return f"{told}: {_FIX}"
        if trainer.world_size > 1:  # layers may wait for other processes
            return f"an output of this process's net is not: {_FIX}"
        with torch.no_grad(), trainer.precision_plugin.forward_context(), _outputs(net) as found:
            net(x)
        where = f'the output of layer "{found[0]}" is not' if found else "the outputs of all layers are"
        return f"{where}: {_FIX}"


def check_parameters(net: nn.Module, gradients: Mapping[str, Tensor] | None = None) -> None:
    """Raise `TrainingError` unless all parameters are finite.

    Args:
        net: A net after a step of training.
        gradients: The largest gradient of each parameter in that step, if known.
    """
    if told := _told(net, gradients or {}):
        raise TrainingError(f"the trained net is not finite: {told}: {_FIX}")


def _told(net: nn.Module, gradients: Mapping[str, Tensor]) -> str:
    """Where parameters are not finite, and the gradients that made them so; empty if all are finite."""
    parameters = [name for name, p in net.named_parameters() if not is_finite(own_piece(p))]
    if not parameters:
        return ""
    bad = [name for name, size in gradients.items() if not is_finite(size)]
    # gradients that are not finite spread back from the last layer that has them
    return f'the gradient of "{bad[-1]}" was not' if bad else f'the parameter "{parameters[-1]}" is not'


def _net(module: pl.LightningModule) -> nn.Module:
    found = getattr(module, "net", module)
    return found if isinstance(found, nn.Module) else module


@contextmanager
def _outputs(net: nn.Module) -> Iterator[list[str]]:
    """Collects the names of layers whose outputs are not finite, in the order in which they compute."""
    found: list[str] = []

    def look(name: str, out: Any) -> None:
        if isinstance(out, Tensor) and not is_finite(out):
            found.append(name)

    handles = [
        module.register_forward_hook(lambda module, args, out, name=name: look(name, out))
        for name, module in net.named_modules()
        if name
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
