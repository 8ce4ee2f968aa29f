"""Model directories from the Hugging Face hub: only the files that a pipeline needs, and safetensors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fdiv_jax.checkpoints.weight_files import STEMS, has_weights
from fdiv_jax.files import read_json
from fdiv_jax.pipeline.kept import USUALLY_KEPT

__all__ = ["cached_card", "download", "fetch", "is_hub_id"]

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")


def is_hub_id(name: str) -> bool:
    """Whether a name reads as "owner/model"."""
    return _ID.fullmatch(name) is not None and ".." not in name


def _patterns(variant: str | None, networks: Sequence[str] = (*_NETWORKS, *USUALLY_KEPT)) -> list[str]:
    """The files of a pipeline, with the weights of these networks; no pickles, no single-file checkpoints."""
    middle = f".{variant}" if variant else ""
    weights = [
        f"{network}/{stem}{middle}{rest}"
        for network in networks
        for stem in STEMS
        for rest in (".safetensors", "-*.safetensors", ".safetensors.index.json")
    ]
    if variant:  # the two ways of naming shards of a variant
        weights += [
            f"{network}/{stem}{rest}"
            for network in networks
            for stem in STEMS
            for rest in (f".safetensors.index{middle}.json", f"-*{middle}.safetensors")
        ]
    small = [
        "README.md",
        "model_index.json",
        "concepts.json",
        "scheduler/*.json",
        "tokenizer/*",
        "tokenizer_2/*",
    ]
    configurations = [f"{network}/*config.json" for network in (*_NETWORKS, *USUALLY_KEPT)]
    return small + configurations + weights


def fetch(
    model: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    offline: bool = False,
    weights: bool = True,
) -> Path:
    """The local directory of a hub model, downloaded where the cache does not have it yet.

    The cache, its place (HF_HOME) and HF_HUB_OFFLINE are huggingface-hub's own.

    Args:
        model: "owner/model".
        revision: a branch, a tag or a commit; None: the main branch.
        variant: variant of the weights, such as "fp16".
        offline: use the cache only.
        weights: with those of the networks; without, the configurations are all.

    Raises:
        FileNotFoundError: no such model or revision, the hub cannot be reached, the connection breaks, or the
            model is not in the cache.
        PermissionError: the model is private or its terms were not accepted.
        ValueError: the repository has no safetensors weights (of the variant) for one of its networks, or the
            name is not valid for a repository.
    """
    options = {"revision": revision, "offline": offline}
    if not weights:
        directory = download(model, _patterns(None, ()), **options)
        _networks_of(directory, _named(model, revision))
        return directory
    directory = download(model, _patterns(variant), **options)
    without = [name for name in (*_NETWORKS, *USUALLY_KEPT) if not has_weights(directory / name, variant)]
    if variant and not set(_NETWORKS) <= set(without):  # the others are read without the variant
        directory = download(model, _patterns(None, without), **options)
    _check_weights(directory, _named(model, revision), variant)
    return directory


def download(
    model: str, patterns: Sequence[str], *, revision: str | None = None, offline: bool = False
) -> Path:
    """The local directory of a hub model with its files of these patterns; what it raises, see `fetch`."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

    at = _named(model, revision)
    try:
        return Path(
            snapshot_download(
                model, revision=revision, allow_patterns=list(patterns), local_files_only=offline
            )
        )
    except GatedRepoError as error:
        raise PermissionError(
            f"{at}: accept the model's terms on its page and log in by `hf auth login`"
        ) from error
    except LocalEntryNotFoundError as error:
        where = (
            "it is not in the local cache" if offline else "the hub cannot be reached, and the cache lacks it"
        )
        raise FileNotFoundError(
            f"model {at}: {where}; expected a directory, a model of the cache, or a connection"
        ) from error
    except ValueError:  # a name that no repository can have
        raise
    except Exception as error:  # the library passes on the errors of its transport when a connection breaks
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise FileNotFoundError(f"model {at}: the hub does not give it ({first[0]})") from error


def _named(model: str, revision: str | None) -> str:
    return model if revision is None else f"{model} at revision {revision!r}"


def _networks_of(directory: Path, at: str) -> list[str]:
    """The networks that a model's index names."""
    index = directory / "model_index.json"
    if not index.is_file():
        raise FileNotFoundError(f"model {at} has no model_index.json, so it is not a diffusers pipeline")
    try:
        entries = read_json(index)
    except ValueError as error:
        raise ValueError(f"model {at}: {error}") from error
    return [name for name in _NETWORKS if isinstance(entries.get(name), list) and any(entries[name][-1:])]


def _check_weights(directory: Path, at: str, variant: str | None) -> None:
    networks = _networks_of(directory, at)
    some = any(has_weights(directory / network, variant) for network in networks)
    for network in networks:
        if has_weights(directory / network, variant) or (some and has_weights(directory / network)):
            continue
        if variant and not some:
            raise ValueError(
                f"model {at}: no safetensors weights of variant {variant!r} for {network} or another network"
                "; try another variant, or none"
            )
        raise ValueError(
            f"model {at}: no safetensors weights for {network}. Those of a variant that is not asked for, "
            "such as fp16, are not downloaded, and pickled ones (.bin, .ckpt) never: reading one runs any "
            "code it holds"
        )


def cached_card(model: str, revision: str | None = None, *, offline: bool = True) -> Path | None:
    """The README.md of a hub model: from the local cache, or else, unless `offline`, from the hub.

    None where there is none, or it cannot be had.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model, "README.md", revision=revision, local_files_only=offline))
    except Exception:  # no card is no reason to fail, whatever of the many errors it is
        return None
