"""Losses, metrics and mixing for examples of one class, or of several at once."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from timm.data.mixup import Mixup
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MultilabelAveragePrecision
from torchmetrics.functional.classification import multilabel_average_precision
from torchmetrics.utilities.data import dim_zero_cat

#: What the metrics are called, by the names they are logged under.
TITLES = {"acc": "accuracy", "map": "mean average precision"}


class MeanAveragePrecision(MultilabelAveragePrecision):
    """The mean of the average precisions of the classes that have an example. torchmetrics takes 0 for the others."""

    def compute(self) -> Tensor:
        scores, y = dim_zero_cat(self.preds), dim_zero_cat(self.target)
        known = y.any(0)
        if not known.any():
            return scores.new_tensor(float("nan"))
        return multilabel_average_precision(scores[:, known], y[:, known], int(known.sum()), validate_args=False)


class MeanLoss(Metric):
    """The mean over examples of losses that are means of batches.

    torchmetrics' own mean drops NaN; with `nan_strategy="disable"`, it drops the weights.
    """

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "count"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")

    def update(self, loss: Tensor, count: int) -> None:
        self.total = self.total + loss * count
        self.count = self.count + count

    def compute(self) -> Tensor:
        return self.total / self.count


def metrics(classes: int, multilabel: bool) -> nn.ModuleDict:
    """The metric of each stage: accuracy; or the mean of the classes' average precisions, in evaluation only.

    The latter keeps all scores of an epoch, and says little of mixed examples. `loss` is the mean loss in training.
    """
    if multilabel:
        stages = {f"on_{stage}": MeanAveragePrecision(classes) for stage in ("val", "test")}
    else:
        stages = {f"on_{stage}": MulticlassAccuracy(classes, average="micro") for stage in ("train", "val", "test")}
    return nn.ModuleDict({**stages, "loss": MeanLoss()})


def count(metric: Any, scores: Float[Tensor, "b classes"], y: Shaped[Tensor, " b *classes"]) -> None:
    """Add a batch to a metric of `metrics`."""
    if y.ndim > 1:
        scores, y = scores.float().sigmoid(), y.long()  # torchmetrics guesses, batch by batch, what scores are
    metric.update(scores, y)


def example_losses(
    scores: Float[Tensor, "b classes"], target: Shaped[Tensor, " b *classes"], smoothing: float, multilabel: bool
) -> Float[Tensor, " b"]:
    """The loss of each example: cross-entropy; or binary cross-entropy, the mean over classes.

    Args:
        scores: class scores of the net.
        target: classes, or shares of them.
        smoothing: share of the target that is spread over all classes; of several, over yes and no.
        multilabel: whether an example may have several classes.
    """
    if not multilabel:
        return F.cross_entropy(scores, target, label_smoothing=smoothing, reduction="none")
    target = target.to(scores.dtype) * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(scores, target, reduction="none").mean(1)


def probabilities(scores: Float[Tensor, "b classes"], multilabel: bool) -> Float[Tensor, "b classes"]:
    """Class probabilities; of several classes, each by itself."""
    return scores.sigmoid() if multilabel else scores.softmax(-1)


class _Mixture(Mixup):
    """timm's Mixup for targets that are shares of classes."""

    def __call__(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        self.num_classes = len(x)  # each example is a class of its own: this gives its share in each mixture
        x, shares = super().__call__(x, torch.arange(len(x), device=x.device))
        return x, shares @ target.to(shares.dtype)


def mixer(settings: Mapping[str, Any]) -> Mixup | None:
    """Mixes batches `(x, y)` as the arguments of `Classifier` ask; `None` if they ask for nothing."""
    mixup, cutmix, smoothing = settings["mixup"], settings["cutmix"], settings["label_smoothing"]
    if not (mixup or cutmix):
        return None
    if settings["multilabel"]:
        return _Mixture(mixup, cutmix, label_smoothing=0.0)
    return Mixup(mixup, cutmix, label_smoothing=smoothing, num_classes=settings["num_classes"])
