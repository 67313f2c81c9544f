"""The verbs of the command line about saved models."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from autosample.errors import ArtifactError
from autosample.model.quantize import Half, Method


def quantize(
    path: Path,
    out: Path | None = None,
    bits: int = 8,
    method: Method = "linear",
    layers: Literal["sampled", "all"] = "sampled",
    gains: Literal["fp16", "bf16", "int8"] | None = None,
    rest: Half | None = None,
    compression: Literal["none", "xz"] = "none",
) -> None:
    """Quantise a saved model or a checkpoint, and save it.

    Args:
        path: Folder of a saved model, or a checkpoint that `autosample fit` wrote.
        out: Folder to save to.
        bits: Of a stored number, 2 to 8.
        method: Even levels or a codebook for each layer.
        layers: Only those that sample their filters, or all convolutions and linear layers.
        gains: Precision of learned gains.
        rest: Precision of everything else that is stored.
        compression: Whether the file of tensors is entropy-coded.
    """
    from autosample.artifact.loading import load_any
    from autosample.artifact.saving import save
    from autosample.model.quantize import quantize_

    if out is None:
        raise ArtifactError("quantize needs a folder to save to, got none: pass --out DIR")
    model, config = load_any(path)
    facts = {**config.facts, "quantised": f"{method}, {bits} bits"}
    if "quantised" not in config.facts and isinstance(config.facts.get("metrics"), Mapping):
        facts["metrics"] = {f"{name}, before quantising": value for name, value in config.facts["metrics"].items()}
    config = replace(config, facts=facts)
    print(quantize_(model, bits, method=method, layers=layers, gains=gains, rest=rest))
    saved = save(model, out, config=config, compression=compression)
    assert saved.tensors is not None
    print(
        f"{out}: {saved.tensors.bytes:,} bytes, {saved.dense_bytes / saved.tensors.bytes:.1f} times smaller than dense"
    )


def card(path: Path, write: bool = False) -> None:
    """Print the model card of a saved model.

    Args:
        path: Folder of the saved model.
        write: Write it to README.md as well.
    """
    from autosample.artifact.card import card_text
    from autosample.artifact.files import write_card
    from autosample.artifact.loading import load_any
    from autosample.model.report import report

    if not path.is_dir():
        raise ArtifactError(f"a model card is that of a saved model, got {path}, which is no folder: check the path")
    model, config = load_any(path)
    text = card_text(config, report(model))
    print(text, end="")
    if write:
        write_card(path, text)
