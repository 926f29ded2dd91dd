"""Checks of a model's features: each level agrees with feature_info, at every size that the model takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import vitzoo
from vitzoo.errors import VitzooError
from vitzoo.testing.zoo import BATCH, Model, grid_of


def assert_levels(module: Any, image: Tensor, found: Sequence[Tensor], indices: Sequence[int] | None = None) -> None:
    """Assert that features are (B, num_chs, H / reduction, W / reduction), level by level, as feature_info says."""
    info = module.feature_info
    taken = range(len(info)) if indices is None else indices
    assert len(found) == len(taken), (
        f"{len(taken)} levels were asked for (feature_info has {len(info)}), {len(found)} came"
    )
    for index, feature in zip(taken, found, strict=True):
        expected = (BATCH, info[index]["num_chs"], *grid_of(info[index], *image.shape[-2:]))
        assert feature.shape == expected, (
            f"level {index} of an image of {image.shape[-2]}x{image.shape[-1]} has shape {tuple(feature.shape)}; "
            f"feature_info says num_chs={info[index]['num_chs']}, reduction={info[index]['reduction']}, so {expected}"
        )


def check_levels(model: Model) -> None:
    """feature_info names modules, channels and reductions, and every level has them."""
    module, image = model.module(), model.inputs()
    names = dict(module.named_modules())
    for index, row in enumerate(module.feature_info):
        lacking = [key for key in ("module", "num_chs", "reduction") if key not in row]
        assert not lacking, f"feature_info[{index}] lacks {', '.join(lacking)}; got {row!r}"
        assert row["module"] in names, (
            f"feature_info[{index}] names the module {row['module']!r}, which is not in the model"
        )
    with torch.no_grad():
        assert_levels(module, image, module.forward_intermediates(image, intermediates_only=True))


def check_intermediates(model: Model) -> None:
    """The arguments of forward_intermediates: indices, norm, stop_early, output_fmt."""
    module, image = model.module(), model.inputs()
    last = len(module.feature_info) - 1
    with torch.no_grad():
        final, every = module.forward_intermediates(image)
        assert torch.equal(final, module.forward_features(image)), (
            "forward_intermediates(x)[0] is not forward_features(x)"
        )
        for indices, taken in ((1, [last]), ([0], [0]), ([-1], [last]), ([0, last], [0, last])):
            for early in (False, True):
                found = module.forward_intermediates(image, indices, stop_early=early, intermediates_only=True)
                assert_levels(module, image, found, taken)
                same = all(torch.equal(feature, every[i]) for feature, i in zip(found, taken, strict=True))
                assert same, (
                    f"forward_intermediates(x, {indices}, stop_early={early}) gives other features than all levels"
                )
        assert_levels(module, image, module.forward_intermediates(image, norm=True, intermediates_only=True))
        for what, arguments in (
            (f"level {last + 1}", {"indices": [last + 1]}),
            ("output_fmt='NCWH'", {"output_fmt": "NCWH"}),
        ):
            try:
                module.forward_intermediates(image, **arguments)
            except (VitzooError, ValueError):
                continue
            raise AssertionError(f"forward_intermediates takes {what}, which does not exist")


def check_features_only(model: Model) -> None:
    """create(features_only=True) gives the chosen levels of the same model."""
    image, whole = model.inputs(), model.module()
    last = len(whole.feature_info) - 1
    for indices in sorted({(0,), (0, last), (last,)}):
        torch.manual_seed(0)
        module: Any = vitzoo.create(model.entry.name, features_only=True, out_indices=indices, **model.settings)
        rows = [whole.feature_info[index] for index in indices]
        assert module.feature_info.channels() == [row["num_chs"] for row in rows], (
            f"features_only with out_indices={indices} has channels {module.feature_info.channels()}"
        )
        with torch.no_grad():
            found = module.eval()(image)
            assert_levels(whole, image, found, indices)
            torch.manual_seed(0)
            full: Any = vitzoo.create(model.entry.name, **model.settings).eval()
            expected = full.forward_intermediates(image, list(indices), intermediates_only=True)
        same = all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert same, f"features_only with out_indices={indices} computes something else than the whole model's levels"


def check_input_size(model: Model) -> None:
    """After set_input_size the model takes images of that size, also when they are no squares."""
    height, width = model.img_size
    for size in ((2 * height, width), (height, 2 * width)):
        module, image = model.module(), model.images(*size)
        with torch.no_grad():
            module.set_input_size(size)
            _assert_runs(module, image, f"after set_input_size({size})", model.num_classes)


def check_dynamic_size(model: Model) -> None:
    """An image of another size is classified, or refused with an error of vitzoo's; nothing in between."""
    height, width = model.img_size
    for size in ((2 * height, width), (height, 2 * width), (height + 1, width)):
        module, image = model.module(), model.images(*size)
        with torch.no_grad():
            try:
                logits = module(image)
            except VitzooError:
                continue
            except Exception as error:
                raise AssertionError(
                    f"an image of {size[0]}x{size[1]} is neither classified nor refused with an error of "
                    f"vitzoo's, such as InputError, but ends in {type(error).__name__}: {error}"
                ) from error
            assert logits.shape == (BATCH, model.num_classes), f"for {size} the logits have shape {tuple(logits.shape)}"
            if size[0] % height == 0:
                _assert_runs(module, image, "without set_input_size", model.num_classes)


def _assert_runs(module: Any, image: Tensor, what: str, classes: int) -> None:
    logits = module(image)
    assert logits.shape == (BATCH, classes), f"{what} the logits have shape {tuple(logits.shape)}"
    assert logits.isfinite().all(), f"{what} the logits are not finite"
    try:
        assert_levels(module, image, module.forward_intermediates(image, intermediates_only=True))
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from error
