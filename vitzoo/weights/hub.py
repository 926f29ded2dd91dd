"""Weights on the Hugging Face hub: which files of a repository are wanted, and what its refusals mean.

All traffic is huggingface_hub's own: its cache, HF_HUB_OFFLINE, HF_ENDPOINT, tokens and progress bars.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from vitzoo.errors import CheckpointError
from vitzoo.weights.source import CARD_FILE, HUB_PREFIX, IMAGES_FILE, INDEX_FILE, LAYOUTS, shard_names

# The HTTP library below huggingface_hub differs from version to version; the base of its error is the hub's own too.
HUB_ERRORS: tuple[type[Exception], ...] = (HfHubHTTPError.__bases__[0], HFValidationError, OSError)


def split_hub(name: str) -> tuple[str, str | None]:
    """Return (repository, revision) of 'hf-hub:org/name[@revision]'.

    Raises:
        CheckpointError: no such form.
    """
    repository, at, revision = name.removeprefix(HUB_PREFIX).partition("@")
    if not repository or (at and not revision):
        raise CheckpointError(f"{name!r} names no repository (possible: '{HUB_PREFIX}org/name[@revision]')")
    return repository, revision or None


def download(name: str) -> Path:
    """Return the cached snapshot of a repository, with the weights of the first layout that it has.

    Repositories often hold the same weights several times; one of them is downloaded, with the JSON beside it.

    Args:
        name: 'hf-hub:org/name[@revision]'; the revision is a branch, a tag or a commit.

    Raises:
        CheckpointError: there is no such repository or revision, it may not be read, it holds no weights that vitzoo
            knows, or the hub cannot be reached. Files that came whole stay in the cache.
    """
    repository, revision = split_hub(name)
    try:
        return _download(repository, revision)
    except HUB_ERRORS as error:
        raise CheckpointError(
            f"cannot get {repository!r} from the hub: {explain(error, repository, revision)}"
        ) from error


def _download(repository: str, revision: str | None) -> Path:
    for weights, config in LAYOUTS:
        file = _fetch(repository, weights, revision)
        if file is None:
            continue
        # All else comes from the commit of the first file, also when the branch moves meanwhile.
        commit = file.parent.name
        beside = [config, IMAGES_FILE, CARD_FILE]
        for wanted in [*beside, *(shard_names(file) if weights == INDEX_FILE else ())]:
            _fetch(repository, wanted, commit)
        return file.parent
    possible = ", ".join(weights for weights, _ in LAYOUTS)
    at = f" at {revision}" if revision else ""
    where = " in the cache, and HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
    raise CheckpointError(
        f"cannot get {repository!r} from the hub: there is no file of weights that vitzoo looks for{at}{where} "
        f"(possible: {possible}); a file of another name is downloaded by hand and given by its path"
    )


def _fetch(repository: str, file: str, revision: str | None) -> Path | None:
    """Return a file of a repository, or None where the repository has none of that name."""
    try:
        return Path(hf_hub_download(repository, file, revision=revision, library_name="vitzoo"))
    except LocalEntryNotFoundError:
        # Offline, the cache is all there is. Else the hub is out of reach: that must not pass for an absent file.
        known = try_to_load_from_cache(repository, file, revision=revision)
        if constants.HF_HUB_OFFLINE or (known is not None and not isinstance(known, str)):
            return None
        raise
    except EntryNotFoundError:
        return None


def explain(error: Exception, repository: str, revision: str | None, *, right: str = "read") -> str:
    """Return in one sentence what the hub refused, and what to do about it."""
    log_in = f"log in with `hf auth login`, or set HF_TOKEN to a token that may {right} it"
    page = f"{constants.ENDPOINT}/{repository}"
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, HfHubHTTPError):
        # The hub's answer, which huggingface_hub holds to be of less interest than the empty cache.
        error = error.__cause__
    if isinstance(error, GatedRepoError):
        return f"it is gated: accept its conditions at {page}, then {log_in}"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"there is no such repository, or it is private: compare the name with {page}; for a private one {log_in}"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision {revision!r}: {page}/tree/main shows its branches and tags"
    if isinstance(error, LocalEntryNotFoundError):
        return f"{constants.ENDPOINT} cannot be reached, and the cache does not hold it: {error.__cause__ or error}"
    if isinstance(error, HfHubHTTPError) and error.response is not None and error.response.status_code in (401, 403):
        return f"the hub answers {error.response.status_code}, so the token may not {right} it: {log_in}"
    return f"{type(error).__name__}: {error}; try again: files that came whole stay in the cache"
