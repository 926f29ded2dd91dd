"""Writing a model to the Hugging Face hub."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import nn

from vitzoo.errors import CheckpointError
from vitzoo.weights.card import LIBRARIES, model_card
from vitzoo.weights.disk import save
from vitzoo.weights.prepare import NATIVE
from vitzoo.weights.source import CARD_FILE, HUB_PREFIX


def push_to_hub(
    model: nn.Module,
    repository: str,
    /,
    *,
    format: str = NATIVE,
    license: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    message: str = "Weights, config and model card by vitzoo",
    replace_card: bool = False,
) -> str:
    """Write a model to a repository of the hub, in one commit, with a model card; the repository is made if missing.

    Files of other names that are there already stay.

    Args:
        model: a model that `vitzoo.create` or `vitzoo.load` made.
        repository: 'org/name', or 'name' for one's own account. 'hf-hub:' may stand before it.
        format: 'vitzoo', 'transformers' or 'open_clip': the formats whose directories say what they hold.
        license: SPDX identifier of the weights' licence, or its name; that of `model.provenance` when None.
        private: whether a new repository is private; the account's own default when None.
        revision: a branch, made from main if missing; main when None.
        message: of the commit.
        replace_card: write a README.md anew where there is one; else it is left as it is.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: the format is none of those or has no place for the model; the hub refuses, the repository is
            malformed, or the hub cannot be reached. The repository then has all of the old files.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    from vitzoo.weights.hub import HUB_ERRORS, explain

    if format not in LIBRARIES:
        raise CheckpointError(
            f"format={format!r} has no directory that says what it holds, so nobody could load it from the hub by its "
            f"name (possible: {', '.join(LIBRARIES)})"
        )
    name = repository.removeprefix(HUB_PREFIX)
    provenance = getattr(model, "provenance", None)
    if license is None and provenance is not None:
        license = provenance.license
    with tempfile.TemporaryDirectory(prefix="vitzoo-push-") as folder:
        # All that can fail here fails before the hub hears of it.
        save(model, folder, format=format)
        api = HfApi(library_name="vitzoo")
        try:
            name = api.create_repo(name, private=private, exist_ok=True).repo_id
            if revision is not None:
                api.create_branch(name, branch=revision, exist_ok=True)
            if replace_card or not api.file_exists(name, CARD_FILE, revision=revision):
                card = model_card(model, name, format=format, license=license)
                (Path(folder) / CARD_FILE).write_text(card, encoding="utf-8")
            files = [CommitOperationAdd(path.name, path) for path in sorted(Path(folder).iterdir())]
            commit = api.create_commit(name, files, commit_message=message, revision=revision)
        except HUB_ERRORS as error:
            why = explain(error, name, revision, right="write")
            raise CheckpointError(f"cannot push to {name!r} on the hub: {why}") from error
    return str(commit.commit_url)
