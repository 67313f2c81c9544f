"""Hooks of the user's, for whose sake a module must stay as it is."""

from torch import nn

_KINDS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def has_hooks(*modules: nn.Module) -> bool:
    """Whether one of the modules has forward or backward hooks."""
    return any(getattr(module, kind, None) for module in modules for kind in _KINDS)
