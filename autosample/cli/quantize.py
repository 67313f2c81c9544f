"""The verb `quantize`: quantise a saved model or a checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autosample.cli.calibration import add_calibration, calibration_batches
from autosample.cli.options import Parser, add_factory, parse, whole
from autosample.errors import ArtifactError


def declare(parser: Parser) -> None:
    """Declare the options of `quantize`."""
    parser.description = "Quantise a saved model or a checkpoint, and save it."
    add = parser.add_argument
    add("path", type=Path, help="folder of a saved model, or a checkpoint that `autosample fit` wrote")
    add("--out", type=Path, help="folder to save to")
    add("--bits", type=whole, default=8, help="bits per stored number, 2 to 8 (8)")
    add(
        "--method",
        default="linear",
        help="linear: evenly spaced levels (default); codebook: found by k-means; per-filter: linear for each filter; "
        "ternary: -a, 0 and a, with --bits 2",
    )
    add(
        "--layers",
        default="sampled",
        help="sampled: only layers that sample their filters (default); all: all convolutions and linear layers",
    )
    add("--vector", type=whole, default=1, help="numbers that share a code, for --method codebook (1)")
    add("--rest", help="fp16 or bf16: precision of all other stored numbers (default: unchanged)")
    add_calibration(parser, "to renew the statistics of batch norms with, which few bits change", 1024)
    add_factory(parser)
    add(
        "--compression",
        default="none",
        help="none (default), huffman: codes for quantised numbers, xz: a compressed file",
    )


def main(args: Sequence[str]) -> None:
    """Run the verb."""
    given = parse(args, declare)
    if given["out"] is None:
        raise ArtifactError("quantize needs --out, got none: pass --out DIR")
    quantize(**given)


def quantize(
    path: Path,
    out: Path,
    bits: int,
    method: Any,
    compression: str,
    calibrate: list[Path] | None = None,
    examples: int = 1024,
    factory: Any = None,
    **options: Any,
) -> None:
    """Quantise a saved model or a checkpoint, and save it. For the options see `autosample.quantize_`."""
    from autosample.artifact.loading import load_any
    from autosample.artifact.saving import save
    from autosample.model.norms import renew_norms_
    from autosample.model.quantize import quantize_

    model, config = load_any(path, factory=factory)
    batches = calibration_batches(calibrate, config.preprocessing, examples, at_once=64)
    facts = {**config.facts, "quantised": f"{method}, {bits} bits"}
    if "quantised" not in config.facts and isinstance(config.facts.get("metrics"), Mapping):
        facts["metrics"] = {f"{name}, before quantising": value for name, value in config.facts["metrics"].items()}
    print(quantize_(model, bits, method=method, **options))
    if batches is not None:
        renew_norms_(model, batches, most=len(batches))
    saved = save(model, out, config=replace(config, facts=facts), factory=factory, compression=compression)
    assert saved.tensors is not None
    stored = f"stored {saved.stored_bytes:,} bytes, {saved.ratio:.1f} times smaller than dense"
    print(f"{out}: {stored} (a file of {saved.tensors.bytes:,} bytes)")
