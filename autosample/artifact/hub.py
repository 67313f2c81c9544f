"""Saved models on the Hugging Face Hub, with the names and meanings of `huggingface_hub.ModelHubMixin`."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from autosample.artifact.building import Factory
from autosample.artifact.files import CARD, CONFIG, TENSORS
from autosample.artifact.loading import load
from autosample.artifact.saving import save
from autosample.errors import ArtifactError, one_line

_FILES = [CONFIG, CARD, f"{TENSORS}*"]


def from_pretrained(
    pretrained_model_name_or_path: str | Path,
    *,
    factory: Factory | None = None,
    force_download: bool = False,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    revision: str | None = None,
) -> nn.Module:
    """Load a model from a folder or from a repository of the Hub.

    Args:
        pretrained_model_name_or_path: A folder, or `OWNER/NAME`.
        factory: As for `autosample.load`.
        force_download, token, cache_dir, local_files_only, revision: As for `huggingface_hub.snapshot_download`.

    Raises:
        ArtifactError: There is no saved model, it cannot be fetched, or it is damaged.
    """
    if Path(pretrained_model_name_or_path).is_dir():
        return load(pretrained_model_name_or_path, factory=factory)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        folder = snapshot_download(
            str(pretrained_model_name_or_path),
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            token=token,
            local_files_only=local_files_only,
            allow_patterns=_FILES,
        )
    except (OSError, HFValidationError) as error:  # errors of networks and of the Hub are of the first kind
        raise ArtifactError(
            f"{str(pretrained_model_name_or_path)[:80]} is no folder here and cannot be fetched from the Hub "
            f"({one_line(error)[:120]}): check the name OWNER/NAME and the network"
        ) from error
    return load(folder, factory=factory)


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    commit_message: str = "Push model using autosample",
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
    **options: Any,
) -> str:
    """Save a model and upload it to a repository of the Hub, which is created if needed.

    Args:
        model: As for `autosample.save`.
        repo_id: `OWNER/NAME`.
        commit_message, private, token, branch, create_pr: As for `ModelHubMixin.push_to_hub`.
        options: Keyword arguments of `autosample.save`.

    Returns:
        URL of the commit.

    Raises:
        ArtifactError: The model cannot be saved.
    """
    from huggingface_hub import HfApi

    with TemporaryDirectory() as folder:
        save(model, folder, **options)  # before anything is created on the Hub
        api = HfApi(token=token)
        place = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
        return str(
            api.upload_folder(
                repo_id=place,
                repo_type="model",
                folder_path=folder,
                commit_message=commit_message,
                revision=branch,
                create_pr=create_pr,
            )
        )
