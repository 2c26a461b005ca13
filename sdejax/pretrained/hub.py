"""Addresses on the Hugging Face Hub: hf://owner/name@revision becomes a folder on this machine."""

import re
from pathlib import Path

_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_WEIGHTS = ("*.safetensors", "*diffusion_pytorch_model.bin", "*.pth", "*.ckpt")


def resolve(address: str) -> Path:
    """Return the folder with the files of a model repository that sdejax can read; download them if necessary.

    `address` is hf://owner/name, with @revision for a branch, tag or commit other than "main". If the repository is in
    the cache, the network is not asked. So a later commit to a branch is seen only after the cache is cleared.

    **Raises:** `ValueError` that names the address, if it is malformed, if `huggingface_hub` is not installed, if the
    repository or revision does not exist, or if it is not in the cache and the Hub cannot be reached.
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
        raise ValueError(f"{named}: to download a model needs huggingface_hub (pip install 'sdejax[hub]')") from None

    def fetch(local: bool) -> Path:
        # README.md and LICENSE are for the card of an imported model.
        patterns = ["*.json", "README.md", "LICENSE", *_WEIGHTS]
        return Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision, allow_patterns=patterns, local_files_only=local
            )
        )

    try:
        folder = fetch(local=True)
        # Other programs cache single files, so a folder without weights is incomplete.
        if any(file.is_file() for pattern in _WEIGHTS for file in folder.rglob(pattern)):
            return folder
    except errors.LocalEntryNotFoundError:
        pass
    except errors.HFValidationError:
        raise ValueError(f"{named}: {repository!r} is not a name that the Hub allows") from None
    try:
        return fetch(local=False)
    except errors.GatedRepoError:
        raise ValueError(f"{named}: access to this repository needs its owner's permission (hf auth login)") from None
    except errors.RepositoryNotFoundError:
        raise ValueError(
            f"{named}: the Hub has no repository {repository!r}, or it is private (hf auth login)"
        ) from None
    except errors.RevisionNotFoundError:
        raise ValueError(f"{named}: the repository {repository!r} has no revision {revision!r}") from None
    except errors.LocalEntryNotFoundError as error:
        reason = type(error.__cause__ or error).__name__
        raise ValueError(f"{named}: is not in the cache, and the Hub cannot be reached ({reason})") from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise ValueError(f"{named}: cannot be downloaded from the Hub ({type(error).__name__})") from None
