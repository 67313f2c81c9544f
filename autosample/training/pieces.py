"""Whole tensors and the pieces of them that processes hold in a sharded training."""

from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only


def own_piece(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor; an ordinary tensor is whole. No process waits for another one."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def put_together(tree: Any, keep: bool = True) -> Any:
    """A tree of plain data and tensors, with whole tensors in the place of pieces. Every process must call this.

    Args:
        tree: The tree.
        keep: Whether this process needs the result; without it pieces become empty tensors, which saves memory.
    """

    def whole(tensor: DTensor) -> Tensor:
        out = tensor.full_tensor().detach()
        return out.cpu() if keep else out.new_empty(0)

    return tree_map_only(DTensor, whole, tree)


def piece_like(tensor: Any, like: Any) -> Any:
    """This process's piece of a whole tensor, if `like` is in pieces and has its shape; else `tensor` itself."""
    if not isinstance(like, DTensor) or not isinstance(tensor, Tensor) or tensor.shape != like.shape:
        return tensor
    # every process has read the whole tensor, so none must send it
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
