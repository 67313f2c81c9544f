"""Whether data fit a net: classes, channels, and what only images have."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from autosample.errors import ConfigError, TrainingError
from autosample.models import StagedNet


def check_data(data: Any, net: nn.Module, settings: Mapping[str, Any]) -> None:
    """Raise `ConfigError` unless a data module fits the net of a `Classifier` with these arguments.

    Loaders and data modules that do not say their classes or their shape are not checked.
    """
    name, wanted = type(data).__name__, settings["num_classes"]
    several = getattr(data, "multilabel", settings["multilabel"])
    if several != settings["multilabel"]:
        raise ConfigError(
            f"model and data must agree on whether an example may have several classes, got model.multilabel="
            f"{settings['multilabel']} and {several} in {name}: set model.multilabel={several}"
        )
    classes = getattr(data, "num_classes", wanted)
    if classes < 2:
        raise ConfigError(f"data must have at least 2 classes, got {classes} in {name}: add examples of others")
    if classes != wanted:
        raise ConfigError(
            f"model and data must have the same number of classes, got model.num_classes={wanted} and {classes} "
            f"classes in {name}: set model.num_classes={classes}"
        )
    if shape := getattr(data, "input_shape", None):
        _check_shape(shape, name, net, settings)


def _check_shape(shape: tuple[int, ...], data: str, net: nn.Module, settings: Mapping[str, Any]) -> None:
    # a net without a pretrained_cfg raises its own error about a wrong shape
    size = getattr(net, "pretrained_cfg", {}).get("input_size", shape)
    wanted = settings["in_chans"] or size[0]
    if len(shape) == 2 and len(size) == 3 and not isinstance(net, StagedNet):
        raise ConfigError(
            f"{settings['model']} takes images, got sounds of shape {shape} in {data}: set data.log_mel={{}} for "
            "spectrograms and model.in_chans=1, or take a net for waves, such as soundnet8"
        )
    if shape[0] != wanted:
        raise ConfigError(
            f"model and data must have the same number of channels, got {wanted} in {settings['model']} and "
            f"{shape[0]} in {data}: set model.in_chans={shape[0]}"
        )
    if settings["cutmix"] and len(shape) != 3:
        raise ConfigError(f"cutmix needs images, got examples of shape {shape} in {data}: use mixup")


@contextmanager
def few_values_told(examples: int) -> Iterator[None]:
    """Raise `TrainingError` in one line if batch norm has a single value, as on 1×1 maps in a batch of one."""
    try:
        yield
    except ValueError as error:  # torch has no own class for this error
        if "more than 1 value per channel" not in str(error):
            raise
        raise TrainingError(
            f"batch norm needs at least 2 values per channel, got 1 in a batch of {examples}: set data.batch_size to 2 "
            "or more, or data.drop_last to true"
        ) from error
