"""Trains dense weights so that k-means loses little of them: the penalty of Deep k-Means (Wu et al. 2018)."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from autosample.coding.clusters import Clusters, Projection, Subspace
from autosample.errors import ConfigError, hint, one_line
from autosample.model.select import choose_layers
from autosample.nn import compressed_layers
from autosample.sampling.geometry import Geometry
from autosample.sampling.sizing import plan_geometry
from autosample.sampling.spec import spec as make_spec
from autosample.training.freezing import progress

Form = Literal["spectral", "indicator"]
_FORMS: dict[str, Any] = {"spectral": Subspace, "indicator": Clusters}


class ClusterPenalty(pl.Callback):
    """Adds `λ/2·‖X − P·X‖²` to the loss of each dense layer that the preset `kmeans` would convert later.

    `X` holds the layer's windows (rows of a kernel), `P` is a projection that is renewed every few epochs; see
    `autosample.coding.clusters`. Between renewals it is stale, and with the form `spectral` it only acts because of
    that. Afterwards `convert_(net, "kmeans", ratio=…, warm_start=True)` clusters the same windows.

    The gradient `λ·(X − P·X)` is added before an optimizer's step, after gradients are unscaled and before they are
    clipped. The penalty is logged as `train/cluster_penalty`, once an epoch. Checkpoints hold the projections.

    Args:
        strength: `λ`.
        form: `spectral`: the relaxation of the paper; `indicator`: the squared error of k-means itself.
        start: Share of the training after which the penalty acts.
        every: Epochs between two renewals of the projections.
        spec, ratio: How the layers will be converted; `spec` may be a mapping of fields. The form `indicator` has as
            many clusters as this gives codewords, and the option `zeros` draws the smallest windows to zero.
        include, exclude, overrides: Which layers, as for `autosample.convert_`.

    Raises:
        ConfigError: An argument is out of range, or the model is converted already.
        SpecError: `spec` is unusable.
    """

    def __init__(
        self,
        strength: float = 1e-4,
        form: Form = "spectral",
        start: float = 0.0,
        every: int = 5,
        spec: str | dict[str, Any] = "kmeans",
        ratio: float = 16,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        overrides: dict[str, Any] | None = None,
    ) -> None:
        if form not in _FORMS:
            raise ConfigError(f"form must be one of {', '.join(get_args(Form))}, got {form!r}: {hint(form, _FORMS)}")
        if not strength > 0 or not 0 <= start < 1 or every < 1:
            raise ConfigError(
                f"a penalty needs strength > 0, start in [0, 1) and every >= 1, got {strength}, {start} and {every}: "
                "1e-4, 0 and 5 are usual"
            )
        self.spec = make_spec(spec, ratio=ratio)
        if self.spec.grid != "window":
            raise ConfigError(f"a penalty needs the spec of a codebook, got {self.spec.preset}: use kmeans")
        self.strength, self.form, self.start, self.every = strength, form, start, every
        self.patterns: dict[str, Any] = {"include": include, "exclude": exclude, "overrides": overrides}
        self._layers: dict[str, tuple[nn.Module, Geometry, float]] = {}
        self._drawn: dict[str, Projection] = {}
        self._renewed = 0  # epoch

    def state_dict(self) -> dict[str, Any]:
        """The projections as plain data, and the epoch they are from."""
        return {"drawn": {name: dict(vars(drawn)) for name, drawn in self._drawn.items()}, "renewed": self._renewed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the projections of a training that goes on."""
        made = _FORMS[self.form]
        self._drawn = {name: made(**fields) for name, fields in state_dict["drawn"].items()}
        self._renewed = state_dict["renewed"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the layers."""
        if compressed_layers(pl_module):
            raise ConfigError("a cluster penalty needs dense layers, got a converted model: train it before converting")
        choices = choose_layers(getattr(pl_module, "net", pl_module), self.spec, **self.patterns)
        self._layers = {}
        for choice in choices:
            weight = choice.layer._parameters.get("weight")
            if choice.spec is not None and choice.spec.rule == self.spec.rule and weight is not None:
                zeros = getattr(choice.spec.settings, "zeros", 0.0)
                self._layers[choice.name] = choice.layer, plan_geometry(choice.spec, weight.shape), zeros
        self._drawn = {
            name: _FORMS[self.form](**_moved(drawn, pl_module.device)) for name, drawn in self._drawn.items()
        }

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Renew the projections if it is time."""
        if progress(trainer) < self.start:
            return
        if self._drawn and trainer.current_epoch - self._renewed < self.every:
            return
        self._renewed, make = trainer.current_epoch, _FORMS[self.form].of
        self._drawn = {
            name: make(_samples(layer, g), g.choices, zeros) for name, (layer, g, zeros) in self._layers.items()
        }

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Add the gradient of the penalty to the weights that this optimizer trains."""
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, drawn in self._drawn.items():
            layer, geometry, _ = self._layers[name]
            weight = layer._parameters["weight"]
            if weight is not None and weight.grad is not None and id(weight) in trained:
                residual = drawn.residual(_samples(layer, geometry))
                weight.grad.add_(_as_weight(residual, geometry).to(weight.grad), alpha=self.strength)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the penalty."""
        if self._drawn:
            pl_module.log("train/cluster_penalty", self.penalty())

    @torch.no_grad()
    def penalty(self) -> Tensor:
        """The penalty of all layers now, with its factor, shape `()`."""
        drawn = self._drawn.items()
        sizes = [p.residual(_samples(*self._layers[name][:2])).square().sum() for name, p in drawn]
        return self.strength / 2 * torch.stack(sizes).sum()


def _samples(layer: nn.Module, geometry: Geometry) -> Tensor:
    """The windows of a layer's weight, `(N·G, window)`, in float32 at least."""
    weight = layer._parameters["weight"]
    assert weight is not None
    wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    return geometry.to_windows(wide).flatten(0, 1).flatten(1)


def _as_weight(samples: Tensor, geometry: Geometry) -> Tensor:
    """The inverse of `_samples`."""
    return geometry.to_weight(samples.view(geometry.filters, geometry.windows, geometry.columns, geometry.window))


def _moved(drawn: Projection, device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in vars(drawn).items()}


def penalties(settings: Mapping[str, Any], compressed: bool) -> list[pl.Callback]:
    """The callback that the arguments of a `Classifier` ask for, if any.

    Raises:
        ConfigError: The arguments are not usable, or the net is converted already.
    """
    given = settings["cluster_penalty"]
    if not given:
        return []
    if compressed:
        raise ConfigError(
            f'cluster_penalty needs a dense net, got spec {settings["spec"]}: train with spec "dense", then convert '
            "with warm_start"
        )
    try:
        return [ClusterPenalty(**(given if isinstance(given, Mapping) else {"strength": given}))]
    except TypeError as error:
        raise ConfigError(
            f"cluster_penalty takes the arguments of ClusterPenalty ({one_line(error)}): rename"
        ) from error
