"""The strategy that shards nets, for two processes."""

from typing import Any

from pytorch_lightning.strategies import ModelParallelStrategy


def sharding(**options: Any) -> ModelParallelStrategy:
    """As a user's flags make it; `options` override them."""
    flags = {"data_parallel_size": 2, "tensor_parallel_size": 1, "save_distributed_checkpoint": False}
    return ModelParallelStrategy(**{**flags, **options})
