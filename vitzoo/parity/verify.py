"""`vitzoo.verify`: does vitzoo compute what the library computes that the weights come from?"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import vitzoo
from vitzoo.attention.caps import installed_version
from vitzoo.catalog import find_model
from vitzoo.config import ViTConfig
from vitzoo.errors import CheckpointError, InputError
from vitzoo.factory import create
from vitzoo.parity.certificate import Certificate, compare
from vitzoo.parity.libraries import LIBRARIES, Checkpoint, Library, Reader, read_with
from vitzoo.weights.disk import is_native, load
from vitzoo.weights.formats.choose import detect, models_of
from vitzoo.weights.prepare import NATIVE
from vitzoo.weights.source import find_directory, open_source

SEED = 0
# The second image has next to no contrast, so that the eps of the first norm shows in the result.
SCALES = (1.0, 0.01)
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
ROPE_TOLERANCE = 1e-6
UNSEEN = (
    "other image sizes than the checkpoint's own, where libraries resize positions differently",
    "how images are resized and normalised: the inputs are tensors",
    "training: dropout, stochastic depth and what reads the dropped tensors",
)


def verify(
    path: str | Path,
    *,
    against: str | Path | None = None,
    library: str | None = None,
    model: str | None = None,
    format: str | None = None,
    dtype: torch.dtype = torch.float64,
    tolerance: float | None = None,
    **config: Any,
) -> Certificate:
    """Compare vitzoo's outputs with those of the library that weights come from, on fixed inputs, on the CPU.

    The library builds its own model and loads the weights with its own strict loader. Without `against` both read one
    file, so a file that is itself wrong is not seen; with it the reference computes from the other file.

    Args:
        path: the checkpoint: a file, a directory or 'hf-hub:org/name[@revision]'.
        against: the checkpoint that it was made from, read by its own library where there is one, else by vitzoo.
        library: the library that computes the reference; None for the one whose format it is. 'timm' also reads
            DINOv2's, DINOv3's and MAE's own files, into the model that `model` names.
        model: the model's name, where the files do not tell it.
        format: the checkpoint's format; detected when None.
        dtype: float64, or float32 for models that do not fit into memory twice.
        tolerance: the largest difference that counts as equal, over the largest value of the reference. When None:
            1e-10 in float64; 1e-6 where transformers computes DINOv3's rope in float32; 1e-5 in float32.
        **config: settings that the files do not tell, such as `num_heads`; they hold for both checkpoints.

    Returns:
        A certificate; its `equal` is the verdict.

    Raises:
        CheckpointError: a checkpoint cannot be read, by vitzoo or by its library; its format has no library and
            `against` is None; or the two are not of one shape.
        MissingPackageError: the library is not installed.
        InputError: another dtype, or a tolerance that is not above 0.
    """
    if dtype not in TOLERANCES or (tolerance is not None and not tolerance > 0):
        possible = ", ".join(str(one).removeprefix("torch.") for one in TOLERANCES)
        raise InputError(f"dtype={dtype} or tolerance={tolerance} is impossible (possible: {possible}; above 0)")
    subject = _opened(path, model, format, config)
    basis = subject if against is None else _opened(against, model, None, config)
    peer = _library(library, basis)
    if peer is None and against is None:
        raise CheckpointError(_no_library(subject))

    ours = _load(subject, dtype)
    settings: ViTConfig = ours.config  # type: ignore[assignment]
    report: Any = ours.load_report
    images = _images(settings, dtype)
    limit, why = _tolerance(tolerance, dtype, settings, peer)
    unseen = list(UNSEEN)
    if dtype == torch.float32:
        unseen.append("differences that drown in float32's rounding, such as another eps")
    if peer is not None:
        reader = read_with(peer, basis, dtype)
        unseen += reader.unseen
    else:
        reader = _reader(_load(basis, dtype), f"vitzoo, from {basis.source.name}")
        unseen.append(f"a mistake in reading the format {basis.format!r}: no library but vitzoo computed from it")
    expected, reference = _run(reader, images), reader.name
    del reader

    comparisons = compare("vitzoo", _run(_reader(ours, "vitzoo"), images), expected, limit)
    libraries = [peer] if peer is not None else []
    del ours
    own = LIBRARIES.get(subject.format)
    if against is not None and own is not None:
        if own.version is None:
            unseen.append(f"what {own.package} computes from {subject.source.name}: it is not installed")
        else:
            reader = read_with(own, subject, dtype)
            comparisons += compare(reader.name, _run(reader, images), expected, limit)
            libraries.append(own)
    if against is None:
        unseen.append("whether the file is the one that its authors made: both readers read the same bytes")
    return Certificate(
        checkpoint=report.to_dict(),
        reference={"reader": reference, **_files(basis)},
        comparisons=tuple(comparisons),
        tolerance=limit,
        why=why,
        images={"shape": list(images.shape), "dtype": str(dtype), "seed": SEED, "scales": list(SCALES)},
        config=settings.to_dict(),
        versions=_versions(libraries),
        unseen=tuple(unseen),
    )


def _library(asked: str | None, basis: Checkpoint) -> Library | None:
    if asked is None:
        return LIBRARIES.get(basis.format)
    if asked not in LIBRARIES:
        raise InputError(f"library={asked!r} is unknown (possible: {', '.join(LIBRARIES)})")
    reads = (asked, *LIBRARIES[asked].others)
    if basis.format not in reads:
        raise CheckpointError(
            f"{asked} does not read {basis.source.name}, of the format {basis.format!r} (it reads: {', '.join(reads)})"
        )
    return LIBRARIES[asked]


def _opened(path: str | Path, model: str | None, format: str | None, settings: Mapping[str, Any]) -> Checkpoint:
    local = find_directory(path)
    source = open_source(path, found=local)
    named = format or (NATIVE if local.is_dir() and is_native(local, None) else detect(source))
    # The libraries know timm's names, not the short ones.
    model = None if model is None else find_model(model).name
    return Checkpoint(path=local, source=source, format=named, model=model, settings=settings)


def _load(checkpoint: Checkpoint, dtype: torch.dtype) -> nn.Module:
    options: dict[str, Any] = {"format": checkpoint.format, "dtype": dtype, "device": "cpu", **checkpoint.settings}
    if checkpoint.model is None or checkpoint.format == NATIVE:
        model = load(checkpoint.source.name, **options)
    else:
        model = create(checkpoint.model, weights=checkpoint.source, **options)
    if not isinstance(model.config, ViTConfig):
        raise CheckpointError(f"{checkpoint.source.name} is a plugin's model; verify compares plain ViTs")
    return model.eval()


def _reader(model: nn.Module, name: str) -> Reader:
    def run(x: Tensor) -> dict[str, Tensor]:
        return {"out": model(x), "tokens": model.forward_features(x)}  # type: ignore[operator]

    return Reader(name=name, run=run)


def _run(reader: Reader, images: Tensor) -> dict[str, Tensor]:
    with torch.inference_mode():
        return reader.run(images)


def _images(config: ViTConfig, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    shape = (len(SCALES), config.in_chans, *config.img_size)
    images = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (images * torch.tensor(SCALES, dtype=torch.float64)[:, None, None, None]).to(dtype)


def _tolerance(
    asked: float | None, dtype: torch.dtype, config: ViTConfig, library: Library | None
) -> tuple[float, str]:
    if asked is not None:
        return asked, "as asked for"
    if dtype == torch.float64 and config.rope.name == "dinov3" and library is LIBRARIES["transformers"]:
        return ROPE_TOLERANCE, "transformers computes DINOv3's rope in float32"
    return TOLERANCES[dtype], f"rounding in {str(dtype).removeprefix('torch.')}"


def _files(checkpoint: Checkpoint) -> dict[str, Any]:
    files = [{"path": str(file.path), "bytes": file.size, "sha256": file.sha256()} for file in checkpoint.source.files]
    source = checkpoint.source
    return {"source": source.name, "format": checkpoint.format, "revision": source.revision, "files": files}


def _versions(libraries: list[Library]) -> dict[str, Any]:
    packages = sorted({"torch", *(library.distribution for library in libraries)})
    versions = {package: installed_version(package) for package in packages}
    return {"vitzoo": vitzoo.__version__, "python": platform.python_version(), **versions, "on": platform.platform()}


def _no_library(checkpoint: Checkpoint) -> str:
    name, format = checkpoint.source.name, checkpoint.format
    if format == NATIVE:
        return (
            f"{name} is in vitzoo's own format, which no other library reads: say what it was made from, "
            "vitzoo verify CHECKPOINT --against ORIGINAL"
        )
    if models_of(format) is not None:
        return f"{name} is of the format {format!r}, of a plugin's own models; verify compares plain ViTs"
    others = [other for other, library in LIBRARIES.items() if format in library.others]
    ask = f", but {others[0]} reads it when asked to: --with {others[0]} --model NAME" if others else ""
    return (
        f"{name} is of the format {format!r}, which has no library of its own to compare with{ask} (there is one for: "
        f"{', '.join(LIBRARIES)}). What else can be checked is the way out: vitzoo convert {name} CONVERTED --to "
        f"transformers, then vitzoo verify CONVERTED --against {name}; a mistake in reading {format!r} itself is not "
        "seen by it"
    )
