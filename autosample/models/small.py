"""Small dense nets on images: the baselines of the hashing papers, and a net for the 8×8 digits.

* HashedNets: Chen et al. 2015, https://arxiv.org/abs/1504.04788 (section 6).
* FreshNets: Chen et al. 2016, https://arxiv.org/abs/1506.04449.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

from jaxtyping import Float
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from autosample.errors import ConfigError, DataError
from autosample.models._net import StackHead, StagedNet, build, scaled
from autosample.models._stack import ConvStack, Row, StackCfg

__all__ = ["ConvStack2d", "Mlp"]


class ConvStack2d(ConvStack):
    """A stack of 2-D convs on an image.

    `forward` takes `[B, in_chans, H, W]`, pixels, and gives `[B, num_classes]`; `forward_features` gives
    `[B, num_features, H', W']`. A side under `min_input_size` pixels raises `DataError`. See `ConvStack` for the
    arguments.
    """

    ndim = 2
    output_fmt = "NCHW"


class MlpStage(nn.Module):
    """dropout → linear → ReLU."""

    def __init__(self, fan_in: int, fan_out: int, drop_rate: float, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(fan_in, fan_out, device=device, dtype=dtype)
        self.act = nn.ReLU()

    def forward(self, x: Float[Tensor, "batch fan_in"]) -> Float[Tensor, "batch fan_out"]:
        return self.act(self.fc(self.drop(x)))


class Mlp(StagedNet):
    """Fully connected net with ReLU: the image is flattened, channels first.

    `forward` takes `[B, in_chans, H, W]` or `[B, in_chans * H * W]` and gives `[B, num_classes]`; `forward_features`
    gives `[B, hidden[-1]]`, and so do the feature maps of `features_only`.

    Args:
        hidden: widths of the hidden layers, at least one.
        num_classes: classes; 0 for the last hidden layer.
        in_chans: input channels.
        img_size: height and width, pixels; one number for a square.
        global_pool: "" only: there is nothing to pool.
        drop_rate: dropout after each hidden layer.
        width: factor for the hidden widths, rounded.

    Raises:
        ConfigError: a size is not usable.
        DataError: from `forward`, if the image has another number of values.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (1000,),
        num_classes: int = 10,
        in_chans: int = 1,
        img_size: int | Sequence[int] = 28,
        global_pool: str = "",
        drop_rate: float = 0.0,
        width: float = 1.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_chans, num_classes, drop_rate)
        dd = {"device": device, "dtype": dtype}
        height, columns = (img_size, img_size) if isinstance(img_size, int) else img_size
        if not hidden or min(height, columns, *hidden) < 1:
            raise ConfigError(
                f"an Mlp needs at least one hidden width, and sizes >= 1; got hidden={hidden}, img_size={img_size}"
            )
        self.in_features = in_chans * height * columns
        hidden = tuple(scaled(n, width) for n in hidden)
        # a module and not x.flatten(1): timm's feature extraction reruns the children in order
        self.flatten = nn.Flatten(1)
        widths = pairwise((self.in_features, *hidden))
        # every stage but the first starts with dropout, and so does the head: one after every hidden layer
        self.stages = nn.Sequential(*(MlpStage(a, b, drop_rate if i else 0.0, **dd) for i, (a, b) in enumerate(widths)))
        # the first layer reads all pixels at once, so the reduction is the whole side from there on
        self.feature_info = [
            {"num_chs": n, "reduction": max(height, columns), "module": f"stages.{i}"} for i, n in enumerate(hidden)
        ]
        self.finish(StackHead(hidden[-1], num_classes, ndim=0, pool_type=global_pool, drop_rate=drop_rate, **dd))

    def check_input(self, x: Tensor) -> Tensor:
        if x.ndim < 2 or x[0].numel() != self.in_features:
            raise DataError(
                f"this net takes {self.in_features} values per image, got {list(x.shape)}: "
                "set img_size and in_chans when creating it, or resize the images"
            )
        return self.flatten(x)


FRESHNET = StackCfg(
    (Row(32, 5), Row(64, 5, pool=2), Row(64, 5), Row(128, 5, pool=2), Row(256, 5, pool=2)),
    positions=4,
)

DIGITNET = StackCfg((Row(32, 3), Row(64, 3, pool=2), Row(64, 3), Row(128, 3, pool=2), Row(128, 3)))


def _cfg(input_size: tuple[int, int, int], first_conv: str | None = "stages.0.conv", **kwargs: Any) -> dict[str, Any]:
    chans = input_size[0]
    return {
        "num_classes": 10,
        "input_size": input_size,
        "crop_pct": 1.0,
        "mean": (0.5,) * chans,
        "std": (0.5,) * chans,
        "first_conv": first_conv,
        "classifier": "head.fc",
        "license": "apache-2.0",
        **kwargs,
    }


# No first_conv: a linear layer is not a conv stem. It holds nearly all weights, so a converter must not skip it
_MLP = _cfg((1, 28, 28), first_conv=None, fixed_input_size=True, paper_ids="arXiv:1504.04788")

default_cfgs = generate_default_cfgs(
    {
        "mlp784": _MLP,
        "mlp784_5": _MLP,
        "freshnet": _cfg((3, 32, 32), paper_ids="arXiv:1506.04449"),
        "digitnet": _cfg((1, 8, 8)),
    }
)


def _mlp(variant: str, default: Sequence[int], pretrained: bool, **kwargs: Any) -> Mlp:
    hidden = tuple(kwargs.pop("hidden", default))
    return cast(Mlp, build(Mlp, variant, len(hidden), pretrained, hidden=hidden, **kwargs))


def _stack2d(variant: str, cfg: StackCfg, pretrained: bool, **kwargs: Any) -> ConvStack2d:
    return cast(ConvStack2d, build(ConvStack2d, variant, len(cfg.taps), pretrained, model_cfg=cfg, **kwargs))


@register_model
def mlp784(pretrained: bool = False, **kwargs: Any) -> Mlp:
    """784-1000-10, the "3-layer" net of HashedNets: 794,000 weights and 1,010 biases. `hidden` sets other widths."""
    return _mlp("mlp784", (1000,), pretrained, **kwargs)


@register_model
def mlp784_5(pretrained: bool = False, **kwargs: Any) -> Mlp:
    """784-1000-1000-1000-10, the "5-layer" net of HashedNets: 2,794,000 weights and 3,010 biases."""
    return _mlp("mlp784_5", (1000, 1000, 1000), pretrained, **kwargs)


@register_model
def freshnet(pretrained: bool = False, **kwargs: Any) -> ConvStack2d:
    """5 convs of 5×5 and a linear layer for CIFAR-10, as FreshNets and WSNet use it: 1.22 M parameters.

    We do not know the widths of the paper. Ours are 32, 64, 64, 128, 256, chosen to meet the 1.2 M parameters that were
    published, with max-pools after conv2, conv4 and conv5 (32 → 4 pixels). Batch norm is ours too (the net of 2016 had
    dropout): `norm=False, drop_rate=0.5` is closer to it. Images of another size are pooled to 4×4.
    """
    return _stack2d("freshnet", FRESHNET, pretrained, **kwargs)


@register_model
def digitnet(pretrained: bool = False, **kwargs: Any) -> ConvStack2d:
    """5 convs of 3×3 for the 8×8 digits of scikit-learn: 0.28 M parameters, seconds to train on a CPU; ours.

    Max-pools of 2 follow conv2 and conv4, so an 8×8 image ends at 2×2. Sides need at least 4 pixels.
    """
    return _stack2d("digitnet", DIGITNET, pretrained, **kwargs)
