"""Summary layers, one class per torch class: each takes the arguments of its torch twin, then `spec` and its fields."""

from torch import nn

from autosample.nn.compressed import FACES
from autosample.nn.layer import SummaryLayer
from autosample.nn.sum_product import SumProductLayer


class SummaryConv1d(SummaryLayer, nn.Conv1d):
    """`torch.nn.Conv1d` whose filters are sampled from a summary.

    Arguments as for `torch.nn.Conv1d`, then `spec` (a preset name or a `Spec`) and any field of `Spec` by name:
    `SummaryConv1d(64, 128, 32, spec="wsnet", ratio=16)`. Input `(B, in_channels, T)`, output `(B, out_channels, T')`.

    Raises:
        SpecError: The spec is unusable for this shape.
    """

    dense_class = nn.Conv1d


class SummaryConv2d(SummaryLayer, nn.Conv2d):
    """`torch.nn.Conv2d` whose filters are sampled from a summary; see `SummaryConv1d`.

    Input `(B, in_channels, H, W)`, output `(B, out_channels, H', W')`.
    """

    dense_class = nn.Conv2d


class SummaryConv3d(SummaryLayer, nn.Conv3d):
    """`torch.nn.Conv3d` whose filters are sampled from a summary; see `SummaryConv1d`.

    Input `(B, in_channels, D, H, W)`, output `(B, out_channels, D', H', W')`.
    """

    dense_class = nn.Conv3d


class SummaryConvTranspose1d(SummaryLayer, nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d` whose weight is sampled from a summary; each input channel is a filter.

    Input `(B, in_channels, T)`, output `(B, out_channels, T')`; see `SummaryConv1d`.
    """

    dense_class = nn.ConvTranspose1d


class SummaryConvTranspose2d(SummaryLayer, nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` whose weight is sampled from a summary; each input channel is a filter.

    Input `(B, in_channels, H, W)`, output `(B, out_channels, H', W')`; see `SummaryConv1d`.
    """

    dense_class = nn.ConvTranspose2d


class SummaryLinear(SummaryLayer, nn.Linear):
    """`torch.nn.Linear` whose rows are sampled from a summary; see `SummaryConv1d`.

    Input `(…, in_features)`, output `(…, out_features)`.
    """

    dense_class = nn.Linear


class SumProductConv1d(SumProductLayer, nn.Conv1d):
    """A convolution along signals by few multiplications, between sums with ternary entries (StrassenNets).

    Arguments as for `torch.nn.Conv1d`, then `ratio`, or `options` such as `{"products": 0.75, "patch": 2}`; see
    `autosample.sampling.ProductOptions`. Input `(B, in_channels, T)`, output `(B, out_channels, T')`.

    Raises:
        SpecError: The spec is unusable for this shape.
    """

    dense_class = nn.Conv1d


class SumProductConv2d(SumProductLayer, nn.Conv2d):
    """A convolution of images by few multiplications; see `SumProductConv1d`.

    Input `(B, in_channels, H, W)`, output `(B, out_channels, H', W')`.
    """

    dense_class = nn.Conv2d


class SumProductLinear(SumProductLayer, nn.Linear):
    """A linear layer by few multiplications; see `SumProductConv1d`.

    Input `(…, in_features)`, output `(…, out_features)`.
    """

    dense_class = nn.Linear


for face in (SumProductConv1d, SumProductConv2d, SumProductLinear):
    FACES[SumProductLayer, face.dense_class] = face
FACES.update(
    {
        (SummaryLayer, face.dense_class): face
        for face in (
            SummaryConv1d, SummaryConv2d, SummaryConv3d, SummaryConvTranspose1d, SummaryConvTranspose2d, SummaryLinear,
        )
    }
)  # fmt: skip
