"""What all baseline nets share: a head, and timm's class API around stages and head.

A net is `stages` (an `nn.Sequential`) followed by `head`, so the important names are the same in every net: the first
conv is `stages.0.conv` and the classifier is `head.fc`.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models import build_model_with_cfg
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autosample.errors import ConfigError

__all__ = ["StackHead", "StagedNet", "build", "init_weights", "scaled"]

jit_ignore = cast(Any, torch.jit.ignore)  # its published type lacks the bare decorator

ADAPTIVE_POOL: dict[tuple[str, int], Callable[..., Tensor]] = {
    ("avg", 1): F.adaptive_avg_pool1d,
    ("max", 1): F.adaptive_max_pool1d,
    ("avg", 2): F.adaptive_avg_pool2d,
    ("max", 2): F.adaptive_max_pool2d,
}


class StackHead(nn.Module):
    """Pool to a fixed size, optional hidden layers, dropout, linear classifier `fc`.

    Args:
        channels: channels of the last stage.
        num_classes: outputs of `fc`; 0 replaces it with an identity.
        ndim: axes to pool; 0 when the features are already vectors.
        positions: output size of the pool per axis; 1 pools globally, more are flattened with the channels.
        hidden: widths of the fully connected layers, each with ReLU, before the classifier.
        pool_type: "avg", "max", or "" for unpooled features (global pool without hidden layers or classifier only).
        drop_rate: dropout before the classifier.

    Raises:
        ConfigError: the pool type is unknown, or "" is combined with a classifier.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        ndim: int,
        positions: int = 1,
        hidden: Sequence[int] = (),
        pool_type: str = "avg",
        drop_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.channels, self.ndim, self.positions = channels, ndim, positions
        widths = [channels * positions**ndim, *hidden]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (fan_in, fan_out) in enumerate(pairwise(widths), start=1):
            layers[f"fc{i}"] = nn.Linear(fan_in, fan_out, device=device, dtype=dtype)
            layers[f"act{i}"] = nn.ReLU()
        self.hidden = nn.Sequential(layers)
        self.num_features = widths[-1]
        self.drop = nn.Dropout(drop_rate)
        self.reset(num_classes, pool_type, device=device, dtype=dtype)

    def reset(self, num_classes: int, pool_type: str | None = None, device: Any = None, dtype: Any = None) -> None:
        """New classifier for `num_classes`; `pool_type=None` keeps the pool."""
        pool_type = self.pool_type if pool_type is None else pool_type
        known = ("",) if self.ndim == 0 else ("avg", "max") if self.hidden or self.positions > 1 else ("avg", "max", "")
        if pool_type not in known:
            raise ConfigError(f"global_pool of this net must be one of {known}, got {pool_type!r}: choose one of these")
        if self.ndim and not pool_type and num_classes > 0:
            raise ConfigError(f'global_pool="" leaves no vector for {num_classes} classes: pass num_classes=0 with it')
        self.pool_type = pool_type
        fc = nn.Linear(self.num_features, num_classes, device=device, dtype=dtype) if num_classes > 0 else nn.Identity()
        init_weights(fc, classifier=True)
        self.fc = fc.train(self.training)

    def pool(self, x: Tensor) -> Tensor:
        if not self.pool_type:
            return x
        if self.positions == 1:
            x = x.flatten(2)
            return x.mean(2) if self.pool_type == "avg" else x.amax(2)
        size = (self.positions,) * self.ndim
        if tuple(x.shape[2:]) != size:  # skipped at the usual size: adaptive pools export badly
            x = ADAPTIVE_POOL[self.pool_type, self.ndim](x, size)
        return x.flatten(1)

    def forward(self, x: Float[Tensor, "batch channels ..."], pre_logits: bool = False) -> Float[Tensor, "batch ..."]:
        x = self.drop(self.hidden(self.pool(x)))
        return x if pre_logits else self.fc(x)


def scaled(channels: int, width: float) -> int:
    """`width` times the channels, rounded, at least 1.

    Raises:
        ConfigError: `width` is not above 0.
    """
    if not width > 0:
        raise ConfigError(f"width must be above 0, got {width}: 0.5 halves the channels")
    return max(1, round(channels * width))


def init_weights(module: nn.Module, classifier: bool = False) -> None:
    """He initialisation by fan-in, so the scale does not depend on how many filters share the input."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
        if classifier:
            nn.init.normal_(module.weight, std=0.01)
        else:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class StagedNet(nn.Module):
    """timm's class API for a net made of `stages` and a `StackHead`.

    `num_features` is the width of `forward_features`, `head_hidden_size` what `forward_head(x, pre_logits=True)`
    returns. A subclass sets `stages` and `feature_info` and then calls `finish`.
    """

    stages: nn.Sequential
    head: StackHead
    feature_info: list[dict[str, Any]]

    def __init__(self, in_chans: int, num_classes: int, drop_rate: float) -> None:
        super().__init__()
        if in_chans < 1 or num_classes < 0 or not 0 <= drop_rate < 1:
            raise ConfigError(
                "a net needs in_chans >= 1, num_classes >= 0 and 0 <= drop_rate < 1, "
                f"got {in_chans}, {num_classes} and {drop_rate}: change these"
            )
        self.in_chans, self.num_classes, self.drop_rate = in_chans, num_classes, drop_rate
        self.grad_checkpointing = False

    def finish(self, head: StackHead) -> None:
        """Attach the head, read its sizes, and initialise all layers but the classifier."""
        self.stages.apply(init_weights)
        head.hidden.apply(init_weights)
        self.head = head
        self.num_features = head.channels
        self._sync_head()

    def _sync_head(self) -> None:
        self.head_hidden_size = self.head.num_features
        self.global_pool = self.head.pool_type

    @jit_ignore
    def no_weight_decay(self) -> set[str]:
        """No parameter is exempt by name; optimisers already skip biases and norms."""
        return set()

    @jit_ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Name patterns for layer-wise learning rates: the first stage is the stem, each other stage a block."""
        return {"stem": r"^stages\.0\.", "blocks": r"^stages\.(\d+)"}

    @jit_ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the stages in the backward pass instead of keeping their activations."""
        self.grad_checkpointing = enable

    @jit_ignore
    def get_classifier(self) -> nn.Module:
        """The last linear layer, or an identity when `num_classes` is 0."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier; 0 classes leave pooled features. Raises `ConfigError` on an unknown pool."""
        first = next(self.stages.parameters())
        self.head.reset(num_classes, global_pool, device=first.device, dtype=first.dtype)
        self.num_classes = num_classes
        self._sync_head()

    def check_input(self, x: Tensor) -> Tensor:
        """`x` in the shape that the first stage takes; raises `DataError` if that is not possible."""
        raise NotImplementedError

    def _run(self, stage: nn.Module, x: Tensor) -> Tensor:
        if self.grad_checkpointing and self.training:
            return cast(Tensor, checkpoint(stage, x, use_reentrant=False))
        return stage(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str | None = None,
        intermediates_only: bool = False,
    ) -> Any:
        """Feature maps of `feature_info` and the final features, as in timm.

        `indices`: `None` for all, an int for the last n, or a list. `norm` and `output_fmt` have no effect here: there
        is no final norm, and the channels always come second.
        """
        n = len(self.feature_info)
        chosen = range(n) if indices is None else range(n - indices, n) if isinstance(indices, int) else indices
        taps = {self.feature_info[i]["module"]: i % n for i in chosen}
        found: dict[int, Tensor] = {}
        x = self.check_input(x)
        for i, stage in enumerate(self.stages):
            if stop_early and len(found) == len(taps):
                break
            x = self._run(stage, x)
            if f"stages.{i}" in taps:
                found[taps[f"stages.{i}"]] = x
        maps = [found[k] for k in sorted(found)]
        return maps if intermediates_only else (x, maps)

    def forward_features(self, x: Tensor) -> Tensor:
        """Unpooled features `[B, num_features, ...]`. Raises `DataError` if the input does not fit the net."""
        x = self.check_input(x)
        for stage in self.stages:
            x = self._run(stage, x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits `[B, num_classes]`, or `[B, head_hidden_size]` before the classifier with `pre_logits`."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def build(cls: type[StagedNet], variant: str, taps: int, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """timm's builder with the settings that `features_only` needs here; the net has `taps` feature maps.

    Raises `ConfigError` if `out_indices` asks for others.
    """
    wanted = kwargs.get("out_indices", ())
    wanted = range(-wanted, 0) if isinstance(wanted, int) else wanted
    if any(not -taps <= i < taps for i in wanted):
        raise ConfigError(
            f"out_indices of {variant} must be from {-taps} to {taps - 1}, got {list(wanted)}: change them"
        )
    # flattening makes `stages.3` reachable for `features_only`
    feature_cfg = {"out_indices": tuple(range(taps)), "flatten_sequential": True}
    return build_model_with_cfg(cast(Any, cls), variant, pretrained, feature_cfg=feature_cfg, **kwargs)
