"""Statistics of batch norms, which no longer fit after weights have changed."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from autosample.errors import ConfigError
from autosample.system.calling import trying

Model = TypeVar("Model", bound=nn.Module)


@contextmanager
def averaging(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """In the block, statistics of norms in training mode begin anew and are averages over all batches.

    If the block fails, they are as before.
    """
    momenta, before = [norm.momentum for norm in norms], [copy.deepcopy(norm.state_dict()) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    try:
        yield
    except BaseException:
        for norm, state in zip(norms, before, strict=True):
            norm.load_state_dict(state)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@torch.no_grad()
def renew_norms_(model: Model, batches: Iterable[Any], most: int = 20) -> Model:
    """Average the statistics of a model's batch norms anew, and change nothing else.

    After a warm start or a quantisation without training, statistics are those of the old weights, and most of the loss
    of accuracy can come from that.

    Args:
        model: A model with or without batch norms; it is changed in place.
        batches: Training inputs: tensors, or tuples such as `(x, y)` whose first entry is the input. Both go to the
            model's device.
        most: Number of batches that are read, at most.

    Returns:
        The model.

    Raises:
        ConfigError: `most` is below 1, or there is no batch.
        ConversionError: A batch is no input of the model.
    """
    if most < 1:
        raise ConfigError(f"most must be at least 1, got {most}: leave it out for 20")
    taken = islice(iter(batches), most)
    first = next(taken, None)
    if first is None:
        raise ConfigError("renew_norms_ needs batches of inputs, got none: pass a loader of training data")
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    modes = {part: part.training for part in model.modules()}
    device = next((t.device for t in chain(model.parameters(), model.buffers())), torch.device("cpu"))
    model.eval()
    for norm in norms:
        norm.training = True
    try:
        with averaging(norms):
            for batch in chain([first], taken) if norms else ():
                x = batch[0] if isinstance(batch, list | tuple) else batch
                x = tree_map(lambda t: t.to(device) if isinstance(t, Tensor) else t, x)
                with trying(x):
                    model(x)
    finally:
        for part, mode in modes.items():
            part.training = mode
    return model
