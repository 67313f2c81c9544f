"""Dense nets on raw audio `[B, in_chans, T]`, all from one class, with one layer table each.

* SoundNet-8: Aytar et al. 2016, https://arxiv.org/abs/1610.09001; the baseline of WSNet (section 4) on ESC-50,
  UrbanSound8K and DCASE.
* MusicDet: the music detection baseline of WSNet, Jin et al. 2018, https://arxiv.org/abs/1711.10067 (section 4).
* M3, M5, M11, M18: Dai et al. 2016, "Very deep convolutional neural networks for raw waveforms",
  https://arxiv.org/abs/1610.00087 (table 1).
* wave4: ours, for short clips of speech.
"""

from typing import Any, cast

from timm.models import generate_default_cfgs, register_model

from autosample.models._net import build
from autosample.models._stack import ConvStack, Row, StackCfg

__all__ = ["ConvStack1d"]


class ConvStack1d(ConvStack):
    """A stack of 1-D convs on a signal.

    `forward` takes `[B, in_chans, T]`, T in samples, and gives `[B, num_classes]`; `forward_features` gives
    `[B, num_features, T']` with T' about T divided by the last `feature_info` reduction. Any T of at least
    `min_input_size` samples works; less raises `DataError`. See `ConvStack` for the arguments.
    """

    ndim = 1
    output_fmt = "NCL"


def _halving(width: int, kernel: int) -> Row:
    # this padding makes an even kernel of stride 2 give exactly floor(T / 2), so 64000 samples end at length 3
    return Row(width, kernel, stride=2, pool=2, padding=(kernel - 2) // 2)


def _very_deep(first: int, *groups: tuple[int, int], last_pool: int) -> StackCfg:
    """Dai et al.: a wide first conv, then groups of (width, depth) convs of 3 taps, each group but the last pooled."""
    rows = [Row(first, 80, stride=4, pool=4)]
    for i, (width, depth) in enumerate(groups):
        pool = last_pool if i == len(groups) - 1 else 4
        rows += [Row(width, 3)] * (depth - 1) + [Row(width, 3, pool=pool)]
    return StackCfg(tuple(rows))


SOUNDNET8 = StackCfg(
    (
        Row(16, 64, stride=2, pool=8),
        Row(32, 32, stride=2, pool=8),
        Row(64, 16, stride=2),
        Row(128, 8, stride=2),
        Row(256, 4, stride=2, pool=4),
        Row(512, 4, stride=2),
        Row(1024, 4, stride=2),
        Row(1401, 8, stride=2),
    )
)

MUSICDET = StackCfg(
    tuple(
        _halving(width, kernel)
        for width, kernel in ((32, 32), (64, 32), (128, 16), (128, 8), (256, 8), (512, 8), (512, 4))
    ),
    positions=3,
    hidden=(256, 128),
    act_first=True,
)

M3 = _very_deep(256, (256, 1), last_pool=4)
M5 = _very_deep(128, (128, 1), (256, 1), (512, 1), last_pool=4)
M11 = _very_deep(64, (64, 2), (128, 2), (256, 3), (512, 2), last_pool=1)
M18 = _very_deep(64, (64, 4), (128, 4), (256, 4), (512, 4), last_pool=1)

WAVE4 = StackCfg((Row(32, 64, stride=4, pool=4), Row(64, 32, pool=4), Row(128, 16, pool=4), Row(256, 8)))


def _cfg(samples: int, num_classes: int, **kwargs: Any) -> dict[str, Any]:
    # timm wants three numbers: channels, a height of one, samples. The nets themselves take [B, channels, samples]
    return {
        "num_classes": num_classes,
        "input_size": (1, 1, samples),
        "mean": (0.0,),
        "std": (1.0,),
        "first_conv": "stages.0.conv",
        "classifier": "head.fc",
        "license": "apache-2.0",
        **kwargs,
    }


default_cfgs = generate_default_cfgs(
    {
        "soundnet8": _cfg(110250, 50, paper_ids="arXiv:1610.09001"),  # 5 s at 22.05 kHz
        "musicdet": _cfg(64000, 2, paper_ids="arXiv:1711.10067"),  # 4 s at 16 kHz
        "m3": _cfg(32000, 10, paper_ids="arXiv:1610.00087"),  # 4 s at 8 kHz
        "m5": _cfg(32000, 10, paper_ids="arXiv:1610.00087"),
        "m11": _cfg(32000, 10, paper_ids="arXiv:1610.00087"),
        "m18": _cfg(32000, 10, paper_ids="arXiv:1610.00087"),
        "wave4": _cfg(8000, 10),  # 1 s at 8 kHz
    }
)


def _stack1d(variant: str, cfg: StackCfg, pretrained: bool, **kwargs: Any) -> ConvStack1d:
    return cast(ConvStack1d, build(ConvStack1d, variant, len(cfg.taps), pretrained, model_cfg=cfg, **kwargs))


@register_model
def soundnet8(pretrained: bool = False, **kwargs: Any) -> ConvStack1d:
    """SoundNet-8: 8 convs of stride 2, max-pools of 8, 8, 4 after conv1, conv2, conv5; 14.35 M conv weights.

    conv8 keeps SoundNet's 1401 outputs (1000 objects and 401 scenes there) as features with norm and ReLU, followed by
    an average over time and a linear classifier for the task. 5 s at 22.05 kHz end at length 3. The convs have no bias,
    because a batch norm follows each.
    """
    return _stack1d("soundnet8", SOUNDNET8, pretrained, **kwargs)


@register_model
def musicdet(pretrained: bool = False, **kwargs: Any) -> ConvStack1d:
    """MusicDet: 7 × (conv of stride 2, ReLU, batch norm, max-pool 2), then 1536 → 256 → 128 → classes; 3.11 M weights.

    The convs have a bias, because the norm comes after the ReLU. 64000 samples end at length 3 with 512 channels; other
    lengths are pooled to 3. `global_pool` ("avg" or "max") is the type of that pool.
    """
    return _stack1d("musicdet", MUSICDET, pretrained, **kwargs)


@register_model
def m3(pretrained: bool = False, **kwargs: Any) -> ConvStack1d:
    """M3: 2 convs, 0.2 M parameters."""
    return _stack1d("m3", M3, pretrained, **kwargs)


@register_model
def m5(pretrained: bool = False, **kwargs: Any) -> ConvStack1d:
    """M5: 4 convs, 0.5 M parameters."""
    return _stack1d("m5", M5, pretrained, **kwargs)


@register_model
def m11(pretrained: bool = False, **kwargs: Any) -> ConvStack1d:
    """M11: 10 convs, 1.8 M parameters."""
    return _stack1d("m11", M11, pretrained, **kwargs)


@register_model
def m18(pretrained: bool = False, **kwargs: Any) -> ConvStack1d:
    """M18: 17 convs, 3.7 M parameters."""
    return _stack1d("m18", M18, pretrained, **kwargs)


@register_model
def wave4(pretrained: bool = False, **kwargs: Any) -> ConvStack1d:
    """4 convs for 1 s clips at 8 kHz (spoken digits): 0.46 M parameters, 61 M multiply-adds; the design is ours.

    The first conv covers 8 ms with a stride of 0.5 ms. Kernels stay long (32, 16, 8 taps) where an M5 has 3, because
    windows along the taps save little on short kernels. The other convs have stride 1, as the fast path of WSNet needs;
    max-pools of 4 shorten the signal between them.
    """
    return _stack1d("wave4", WAVE4, pretrained, **kwargs)
