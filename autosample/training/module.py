"""The LightningModule: a model of timm or autosample, compressed by a spec and trained as a classifier."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from autosample.artifact.checkpoint import buildable, check_state, checked_recipe, local_arguments, read_checkpoint
from autosample.budget.recipes import settled
from autosample.errors import ArtifactError, ConfigError, one_line
from autosample.model.recipe import Recipe
from autosample.model.report import Report, report
from autosample.nn import compressed_layers
from autosample.training.averages import warn_of_long_average
from autosample.training.clustering import penalties
from autosample.training.data_fits import check_data, few_values_told
from autosample.training.devices import check_devices, check_start, share
from autosample.training.distill import check_distillation, inherit_, make_teacher, taught_loss
from autosample.training.finite import FiniteCheck, NanPolicy, check_parameters, check_policy
from autosample.training.freezing import HardenSchedule
from autosample.training.groups import parameter_groups
from autosample.training.labels import TITLES, count, example_losses, metrics, mixer, probabilities
from autosample.training.moving import MoveFilters
from autosample.training.optim import build_optimizer, build_scheduler, check_settings, rehearse
from autosample.training.precision import warn_of_slow_precision
from autosample.training.quantizing import attach_levels
from autosample.training.resuming import OPEN, check_units, go_on, open_parts, seed_step, set_metrics
from autosample.training.sharding import Sharded, check_sharding, prepare_sharding

# arguments that fetch or read weights, or need fetched ones
_FETCHED = ("model_args", "warm_start", "distill", "teacher", "inherit")


class Classifier(pl.LightningModule):
    """Trains a classifier whose layers sample their filters.

    Batches are `(x, y)` with `x` of the model's input shape and integer classes `y`, shape `(B,)`; with `multilabel`,
    `y` is bool, shape `(B, num_classes)`.

    Args:
        model: Name of a timm model, or of one of autosample's nets (`soundnet8`, `m5`, `mlp784`, …).
        num_classes: Number of classes; must equal that of the data.
        in_chans: Input channels; by default the model's own number.
        model_args: More arguments for the model, such as `drop_rate` or `pretrained`.
        spec: Preset that compresses the layers; `dense` compresses nothing.
        ratio: Dense weights per stored number, as in `Spec`.
        spec_args: More fields of `Spec`, such as `options`.
        bytes, latency, multiplications: Budgets instead of a ratio, as for `autosample.convert_`; the last two are for
            one example of the shape `input`, latency on the CPU. `hparams` and checkpoints hold the ratio, or the
            products, that were found.
        include, exclude, overrides: Which layers, as for `autosample.convert_`.
        planned_bits: Bits per stored number after a later quantisation, as for `autosample.convert_`. It only affects
            sizes: it does not quantise.
        warm_start: Fit summaries to the model's weights (useful with `pretrained`).
        distill: How to learn from a teacher: the share of the loss that compares with its scores, 0 … 1 (Hinton et al.
            2015), or a loss of born-again networks, `ban`, `ban+l`, `cwtm` or `dkpp` (Furlanello et al. 2018).
        temperature: Temperature of both nets' scores in that share of the loss.
        teacher: A saved model, a checkpoint, or `timm:NAME` for a net of timm with its trained weights. Left out, it is
            the dense net whose weights `model_args` names (`pretrained` or `checkpoint_path`).
        inherit: Names of parts of the teacher whose weights the net's own parts of these names take and keep, such as
            the first and the last layer.
        cluster_penalty: Strength of a penalty that prepares a dense net for the preset `kmeans`, such as 1e-4, or the
            arguments of `ClusterPenalty`.
        multilabel: Whether an example may have several classes. The loss is then binary cross-entropy, and the metric
            the mean average precision (`val/map`).
        label_smoothing: Share of the target that is spread over all classes.
        mixup, cutmix: Alphas of timm's Mixup; `cutmix` needs images.
        channels_last: Store images with channels last, in training and evaluation; often faster in 2-D nets.
        optimizer: Name of an optimizer that timm knows.
        lr: Peak learning rate of weights and summaries. Offsets learn at the `rate` of the spec's options.
        weight_decay: Decay of weights and summaries.
        optimizer_args: More arguments for the optimizer.
        scheduler: Name of a timm schedule, stepped after each batch; `none` keeps the rate constant.
        warmup: Share of the training in which the rate rises to `lr`.
        scheduler_args: More arguments for the scheduler.
        seed: Seed of each step's random numbers; a resumed run gives the same results as one without a break.
        nan_policy: `detect` stops the training when a loss is not finite, and names the layer where this began;
            `ignore` goes on.

    Raises:
        ConfigError: An argument is unknown or cannot be met, or the classes or channels do not match the data.
        SpecError: The preset or one of its fields is not usable.
        ConversionError: No layer can be converted.
    """

    def __init__(
        self,
        model: str = "resnet18",
        num_classes: int = 10,
        in_chans: int | None = None,
        model_args: dict[str, Any] | None = None,
        spec: str = "autosample",
        ratio: float | None = None,
        spec_args: dict[str, Any] | None = None,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        overrides: dict[str, Any] | None = None,
        planned_bits: int = 32,
        warm_start: bool = False,
        distill: float | str = 0.0,
        temperature: float = 4.0,
        teacher: str | None = None,
        inherit: list[str] | None = None,
        cluster_penalty: float | dict[str, Any] = 0.0,
        multilabel: bool = False,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        channels_last: bool = False,
        optimizer: str = "adamw",
        lr: float = 2e-3,
        weight_decay: float = 0.05,
        optimizer_args: dict[str, Any] | None = None,
        scheduler: str = "cosine",
        warmup: float = 0.1,
        scheduler_args: dict[str, Any] | None = None,
        seed: int = 0,
        nan_policy: NanPolicy = "detect",
        bytes: float | None = None,
        latency: float | None = None,
        multiplications: float | None = None,
        input: list[int] | None = None,
    ) -> None:
        super().__init__()
        # logger=False: data modules have arguments of the same names, and Lightning refuses to log both
        self.save_hyperparameters(logger=False)
        check_settings(self.hparams)
        check_distillation(self.hparams)
        check_policy(nan_policy)
        self._open: dict[str, Any] = {}  # what a checkpoint has of a step and of an epoch that go on
        self._teacher: list[torch.nn.Module] = []  # in a list, so it is not a submodule
        self._whole: Report | None = None  # of a net that is in pieces now
        recipe, self.budget = settled(self.hparams)
        self.net = recipe.build(warm_start)
        penalties(self.hparams, bool(compressed_layers(self.net)))  # an early check
        self.metrics, self.score = metrics(num_classes, multilabel), "map" if multilabel else "acc"
        self.mix = mixer(self.hparams)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **options: Any) -> "Classifier":
        """Like Lightning's method, but fetches and reads nothing else, and reads checkpoints of version 0.1.0.

        Raises:
            ArtifactError: The file is damaged, no checkpoint of a `Classifier`, or does not fit the `options`.
        """
        saved = read_checkpoint(Path(checkpoint_path), "meta")
        with buildable():
            kept = dict(saved["hyper_parameters"])
            kept = kept if "spec" in kept else {**kept, **Recipe.of(kept).arguments()}
            given = {**local_arguments(kept), **options, "weights_only": True}
            checked_recipe({**saved, "hyper_parameters": given})
            model = super().load_from_checkpoint(checkpoint_path, *args, **given)
        # for a training that goes on: what its teacher needs
        model.hparams.update({name: kept[name] for name in _FETCHED if name in kept and name not in options})
        return model

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._open = {name: checkpoint.get(name, {}) for name in OPEN}
        for state in (checkpoint.get("state_dict"), *self._open.values()):
            check_state(state)
        check_units(self._trainer, self.net, checkpoint["state_dict"])

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Like torch's method; weights of another net give an error of one line.

        Raises:
            ArtifactError: Names or shapes differ.
        """
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            raise ArtifactError(
                f"the weights do not fit this net: {one_line(error)[:180]}: use the arguments it was trained with "
                "(RUN/config.yaml)"
            ) from error

    def prepare_data(self) -> None:
        """Check the arguments before loggers and callbacks write anything. Each process checks again in `setup`."""
        self._check()

    def setup(self, stage: str) -> None:
        """Check that data, optimizer and schedule fit the model."""
        self._check()
        check_start(self.trainer)
        prepare_sharding(self.trainer, self)
        self._whole = self.size_report() if isinstance(self.trainer.strategy, Sharded) else None

    def _check(self) -> None:
        if self.trainer.training:
            rehearse(self.hparams)
            warn_of_slow_precision(self.trainer)
            check_devices(self.trainer)
        check_data(getattr(self.trainer, "datamodule", None), self.net, self.hparams)
        check_sharding(self.trainer, self.net)

    def configure_callbacks(self) -> list[pl.Callback]:
        """Adds the check of the NaN policy, and the schedules of learned offsets and blocks if the net has any."""
        # both before other callbacks copy the net
        attach_levels(self.trainer, self)
        self._inherit()
        checks = [FiniteCheck()] if self.hparams["nan_policy"] == "detect" else []
        sampled = bool(compressed_layers(self.net))
        return [*checks, *([HardenSchedule(), MoveFilters()] if sampled else penalties(self.hparams, compressed=False))]

    def forward(self, x: Tensor) -> Tensor:
        """Class scores, shape `(B, num_classes)`."""
        return self.net(x)

    def _laid_out(self, x: Tensor) -> Tensor:
        """A batch in the requested memory format; only images have a choice."""
        images_last = self.hparams["channels_last"] and x.ndim == 4
        return x.contiguous(memory_format=torch.channels_last) if images_last else x

    def size_report(self) -> Report:
        """The report of the model. If a trainer is attached, it counts multiply-adds for one example of the data."""
        if self._whole is not None:
            return self._whole
        shape = getattr(getattr(self._trainer, "datamodule", None), "input_shape", None)
        kind = next((p.dtype for p in self.net.parameters() if p.is_floating_point()), torch.float32)
        example = torch.zeros(1, *shape, device=self.device, dtype=kind) if shape else None
        return replace(report(self.net, example), budget=self.budget)

    def on_fit_start(self) -> None:
        for logger in self.trainer.loggers:
            logger.log_hyperparams({f"model.{name}": value for name, value in self.hparams.items()})
        self._teacher = [make_teacher(self.hparams, self.device)] if self.hparams["distill"] else []

    def _inherit(self) -> None:
        if self.trainer.training and self.hparams["inherit"]:
            inherit_(self.net, make_teacher(self.hparams, torch.device("cpu")), self.hparams["inherit"])

    def on_train_end(self) -> None:
        """Give all processes the buffers of the first: batch norm's statistics differ, and checkpoints hold these."""
        share(self.trainer, self.net.named_buffers())

    def on_fit_end(self) -> None:
        self._teacher = []

    def on_train_start(self) -> None:
        go_on(self.trainer, self.net, self._open.pop("gradients", {}))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        seed_step(self.hparams["seed"], self.current_epoch, batch_idx, self.device)
        if (counted := self._open.pop("metrics", None)) and batch_idx:
            set_metrics(self.trainer, self.metrics, counted)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        target, smoothing, several = y, self.hparams["label_smoothing"], self.hparams["multilabel"]
        if self.mix is not None and len(x) > 1:
            x, y = (x[:-1], y[:-1]) if len(x) % 2 else (x, y)  # timm mixes pairs
            x, target = self.mix(x, y)
            smoothing = smoothing if several else 0.0  # it has smoothed single labels
        x = self._laid_out(x)
        with few_values_told(len(x)):
            scores = self(x)
        losses = example_losses(scores, target, smoothing, several)
        loss = losses.mean()
        if self._teacher:
            with torch.no_grad():
                taught = self._teacher[0](x)
            loss = taught_loss(self.hparams["distill"], self.hparams["temperature"], scores, losses, taught)
        self.metrics["loss"].update(loss, len(batch[0]))  # pyright: ignore
        self.log("train/loss", self.metrics["loss"], on_step=False, on_epoch=True)  # pyright: ignore
        if not several:
            count(self.metrics["on_train"], scores, y)
            self.log("train/acc", self.metrics["on_train"], on_step=False, on_epoch=True, prog_bar=True)  # pyright: ignore
        return loss

    def _evaluate(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        x, y = batch
        scores = self(self._laid_out(x))
        metric: Any = self.metrics[f"on_{stage}"]
        loss = example_losses(scores, y, 0.0, self.hparams["multilabel"]).mean()
        count(metric, scores, y)
        self.log(f"{stage}/loss", loss, sync_dist=True, batch_size=len(y))
        self.log(f"{stage}/{self.score}", metric, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(y))

    def on_validation_start(self) -> None:
        if self._whole is not None:  # with ddp, every forward pass does this
            share(self.trainer, self.net.named_buffers())

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate("test", batch)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Class probabilities, shape `(B, num_classes)`."""
        scores = self(batch[0] if isinstance(batch, list | tuple) else batch)
        return probabilities(scores, self.hparams["multilabel"])

    def configure_optimizers(self) -> Any:
        h = self.hparams
        groups = parameter_groups(self.net, h["lr"], h["weight_decay"])
        optimizer = build_optimizer(groups, h["optimizer"], h["lr"], h["weight_decay"], h["optimizer_args"])
        steps, epochs = int(self._length()), max(self.trainer.max_epochs or 1, 1)
        warn_of_long_average(self.trainer, steps)
        scheduler = build_scheduler(
            optimizer,
            h["scheduler"],
            h["lr"],
            epochs=epochs,
            per_epoch=max(round(steps / epochs), 1),
            warmup=h["warmup"],
            args=h["scheduler_args"],
        )
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _length(self) -> float:
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ConfigError(
                "the schedule needs to know how long training takes, got max_epochs -1: set --trainer.max_epochs or "
                "--trainer.max_steps (max_time may end it earlier)"
            )
        return steps

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a saved model needs to know about its data: class names, preprocessing and facts.

        Raises:
            TrainingError: The net is not finite, and the policy is to say so. An earlier checkpoint is kept.
        """
        if self.hparams["nan_policy"] == "detect":
            check_parameters(self.net)
        checkpoint.update(open_parts(self.trainer, self.net, self.metrics))
        data = getattr(self._trainer, "datamodule", None)
        if data is not None and hasattr(data, "preprocessing"):
            facts: dict[str, Any] = {"data": type(data).__name__}
            facts |= {"multilabel": True} if self.hparams["multilabel"] else {}
            value, title = self.trainer.callback_metrics.get(f"val/{self.score}"), TITLES[self.score]
            if value is not None:
                facts["metrics"] = {f"validation {title}": f"{100 * float(value):.2f} %"}
            kept = {"class_names": list(data.class_names), "preprocessing": data.preprocessing}
            checkpoint["autosample"] = {**kept, "facts": facts}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if hasattr(scheduler, "step_update"):
            scheduler.step_update(num_updates=self.global_step)
        else:  # torch's own, as StochasticWeightAveraging puts in the place of ours
            super().lr_scheduler_step(scheduler, metric)
