"""Addresses of models on the Hugging Face Hub: hf://owner/name@revision -> a folder on this machine."""

import re
from pathlib import Path

_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_WEIGHTS = ("*.safetensors", "*diffusion_pytorch_model.bin", "*.pth", "*.ckpt")


def resolve(address: str) -> Path:
    """The folder that holds the files of a model repository which sdejax can read, downloaded where they are not yet.

    A repository in the cache is taken as it is, without asking the network: a later commit to a branch is seen once the
    cache is cleared. `address` is hf://owner/name, with @revision for a branch, tag or commit other than "main".

    **Raises:** `ValueError`, naming the address, where it is malformed, `huggingface_hub` is not installed, there is no
    such repository or revision, or it is not in the cache and the Hub cannot be reached.
    """
    named = f"address={address!r}"
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(f"{named}: must be of the form hf://owner/name or hf://owner/name@revision")
    repository, revision = match.groups()
    try:
        import huggingface_hub  # pyright: ignore[reportMissingImports]
        from huggingface_hub import errors  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(f"{named}: models of the Hub need huggingface_hub (pip install 'sdejax[hub]')") from None

    def fetch(local: bool) -> Path:
        patterns = ["*.json", "README.md", "LICENSE", *_WEIGHTS]  # the licence is for the card of an imported model
        return Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision, allow_patterns=patterns, local_files_only=local
            )
        )

    try:
        folder = fetch(local=True)
        # Other programs cache single files; a folder without weights is a part of the repository.
        if any(file.is_file() for pattern in _WEIGHTS for file in folder.rglob(pattern)):
            return folder
    except errors.LocalEntryNotFoundError:
        pass
    except errors.HFValidationError:
        raise ValueError(f"{named}: {repository!r} is not a name that the Hub allows") from None
    try:
        return fetch(local=False)
    except errors.GatedRepoError:
        raise ValueError(f"{named}: this repository is open only to those its owner lets in (hf auth login)") from None
    except errors.RepositoryNotFoundError:
        raise ValueError(
            f"{named}: the Hub has no repository {repository!r}, or it is private (hf auth login)"
        ) from None
    except errors.RevisionNotFoundError:
        raise ValueError(f"{named}: the repository {repository!r} has no revision {revision!r}") from None
    except errors.LocalEntryNotFoundError as error:
        reason = type(error.__cause__ or error).__name__
        raise ValueError(f"{named}: not in the cache, and the Hub cannot be reached ({reason})") from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise ValueError(f"{named}: the Hub did not deliver it ({type(error).__name__})") from None
