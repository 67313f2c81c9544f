"""The model card of a saved model: what it is, its size, and how it was made."""

from collections.abc import Mapping
from typing import Any

from autosample.artifact.config import Config
from autosample.model.report import Report

_SHOWN = ("license", "data", "metrics", "command")
_RULE = "<!-- written by autosample; saving again replaces it -->"


def card_text(config: Config, report: Report) -> str:
    """A model card in the Hugging Face Hub's form: YAML front matter, then Markdown."""
    import yaml

    facts, source = config.facts, config.source
    head: dict[str, Any] = {"library_name": "autosample", "tags": ["autosample", "model-compression", source.name]}
    for key, field in (("license", "license"), ("data", "datasets")):
        if isinstance(facts.get(key), str):
            head[field] = facts[key] if key == "license" else [facts[key]]
    title = f"# {_inline(source.name)}, {_size(config.stored_bytes)}"
    parts = [f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n{_RULE}\n\n{title}\n"]
    sampled = f"{len(report.converted)} of {len(report.rows) - 1} layers compressed"
    parts.append(
        f"`{_inline(source.name)}` with {sampled}: {config.stored_bytes:,} bytes of tensors, {config.ratio:.1f} times "
        f"smaller than the {config.dense_bytes:,} bytes of the dense model.\n"
    )
    parts.append(_use(config))
    parts.append(_table("Results", facts.get("metrics")))
    parts.append(_table("How it was made", {k: v for k, v in facts.items() if k not in ("metrics", "license")}))
    parts.append(_table("Input", config.preprocessing))
    if config.class_names:
        parts.append(f"## Classes\n\n{', '.join(_inline(name) for name in config.class_names)}\n")
    parts.append(f"## Layers\n\n{report.to_markdown()}")
    if config.tensors is not None:
        file = config.tensors
        parts.append(
            f"## File\n\nSaved by autosample {_inline(config.version)}: {file.bytes:,} bytes, SHA-256 "
            f"`{file.sha256}`.\n"
        )
    return "\n".join(part for part in parts if part)


def _use(config: Config) -> str:
    factory = "" if config.source.kind == "timm" else ", factory=make_dense_model"
    return (
        "## Use\n\n```python\nimport autosample\n\n"
        f'model = autosample.load("FOLDER"{factory})  # or autosample.from_pretrained("OWNER/NAME")\n```\n'
    )


def _table(title: str, values: Any) -> str:
    if not isinstance(values, Mapping) or not values:
        return ""
    lines = [f"| {_inline(key)} | {_inline(value)} |" for key, value in values.items()]
    return "\n".join([f"## {title}\n", "| | |", "|---|---|", *lines]) + "\n"


def _inline(value: Any) -> str:
    """A value on one line of Markdown, without markup of tables or pages."""
    text = " ".join(str(value).split())
    for sign in ("\\", "|", "<", "`"):
        text = text.replace(sign, f"\\{sign}")
    return text


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
