"""Models to the Hugging Face hub: a repository is made where there is none, and a directory is put into it.

The token is huggingface-hub's own business: it reads what `hf auth login` left, or HF_TOKEN. Nothing here
takes one, keeps one or shows one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fdiv_jax.files import one_line
from fdiv_jax.pipeline.cards import model_card
from fdiv_jax.pipeline.hub import is_hub_id
from fdiv_jax.pipeline.shared import CARD, Shared, base_of

if TYPE_CHECKING:
    from fdiv_jax.pipeline.text_to_image import TextToImagePipeline

__all__ = ["check_upload", "push_to_hub", "upload"]

_REFUSED = (401, 403)


def check_upload(repository: str) -> None:
    """Check, before the work for it, that something can be pushed to a repository.

    Raises:
        ValueError: a name that no repository can have, or huggingface-hub is told to stay offline.
        PermissionError: nobody is logged in.
    """
    import huggingface_hub
    from huggingface_hub.utils import validate_repo_id

    if not is_hub_id(repository):
        raise ValueError(f"repository {repository!r}, expected owner/name")
    validate_repo_id(repository)
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise ValueError(f"repository {repository}: HF_HUB_OFFLINE is set, so nothing can be pushed")
    if not huggingface_hub.get_token():
        raise PermissionError(f"repository {repository}: log in by `hf auth login`, or set HF_TOKEN")


def upload(directory: Path, repository: str, *, private: bool | None = None, message: str = "") -> str:
    """Put the files of a directory into a hub repository, in one commit; others that it has stay.

    Args:
        directory: everything in it is uploaded.
        repository: "owner/name"; it is made where there is none.
        private: whether a new repository is private; None: as the owner's settings say.
        message: of the commit.

    Returns:
        The address of the repository.

    Raises:
        ValueError: as for `check_upload`.
        PermissionError: nobody is logged in, or the hub refuses.
        ConnectionError: the hub cannot be reached, or fails.
    """
    from huggingface_hub import HfApi

    check_upload(repository)
    api = HfApi(library_name="fdiv-jax")
    try:
        made = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=directory, commit_message=message or "Upload by fdiv-jax"
        )
    except Exception as error:  # of the library and of its transport, which are of no kind that Python knows
        told = _without_token(one_line(error))
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in _REFUSED:
            raise PermissionError(f"repository {repository}: the hub refuses ({told})") from None
        raise ConnectionError(f"repository {repository}: nothing was pushed ({told})") from None
    return str(made)


def push_to_hub(
    pipeline: TextToImagePipeline,
    repository: str,
    *,
    private: bool | None = None,
    card: str | None = None,
    message: str = "",
) -> str:
    """Write a pipeline as a diffusers directory with a card, and push it; see `upload`.

    Args:
        pipeline: the pipeline to push.
        repository: "owner/name".
        private: whether a new repository is private; None: as the owner's settings say.
        card: the text of the README.md, such as `fdiv_jax.monitoring.run_card` writes of a run; None: one
            that says where the model came from, its licence and how it is loaded.
        message: of the commit.

    Returns:
        The address of the repository.

    Raises:
        ValueError, PermissionError, ConnectionError: as for `upload`.
    """
    check_upload(repository)
    if card is None:
        base = base_of(pipeline.name, pipeline.loaded_with, pipeline.loras, offline=False)
        card = model_card(base, Shared("diffusers", repository, pipeline.text_encoder_2 is not None))
    with tempfile.TemporaryDirectory(prefix="fdiv-jax-push-") as place:
        directory = pipeline.save(Path(place) / "model")
        (directory / CARD).write_text(card, encoding="utf-8")
        return upload(directory, repository, private=private, message=message)


def _without_token(text: str) -> str:
    """No message of the library holds the token; should one ever do, it is not passed on."""
    from huggingface_hub import get_token

    token = get_token()
    return text.replace(token, "(token)") if token else text
