"""Weights at an address of the web, in the cache that torchvision uses too."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from vitzoo.errors import CheckpointError

_HASH = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")


def download_address(url: str) -> Path:
    """Return the file at an address, downloaded first when torch's cache (TORCH_HOME) does not hold it.

    Args:
        url: it ends in the start of the file's SHA-256, as torchvision's do: '.../vit_b_16-c867db91.pth'.

    Raises:
        CheckpointError: the address has no such ending, cannot be reached, or gives another file.
    """
    name = url.rpartition("/")[2]
    told = _HASH.search(name)
    if told is None:
        # Without it, two files of one name would be one in the cache.
        raise CheckpointError(
            f"{url!r} does not end in its own hash, such as '-c867db91.pth': download it and give the file's path"
        )
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file), hash_prefix=told[1])
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"cannot get {url!r}: {error}; nothing was kept, try again") from error
    return file
