"""What a model is checked for: the protocol that plugins/README.md writes down."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import vitzoo
from vitzoo.errors import VitzooError
from vitzoo.plugin import requirements
from vitzoo.registry import Entry
from vitzoo.testing import model_features as features
from vitzoo.testing import model_training as training
from vitzoo.testing.check import Check, Unavailable
from vitzoo.testing.modules import is_close, module_checks
from vitzoo.testing.zoo import BATCH, Model

METHODS = (
    "forward",
    "forward_features",
    "forward_head",
    "forward_intermediates",
    "prune_intermediate_layers",
    "get_classifier",
    "reset_classifier",
    "set_input_size",
    "set_grad_checkpointing",
    "no_weight_decay",
    "group_matcher",
)
ATTRIBUTES = {"num_classes": int, "num_features": int, "feature_info": list}


def checks(entry: Entry) -> list[Check]:
    """Return the checks of a model; of one that nobody says how to build small, those that the meta device allows."""
    model = Model(entry)
    functions: dict[str, Callable[[Model], None]] = {"protocol": check_protocol}
    if model.small is None:
        functions |= {"on_meta": check_on_meta, "test_config": check_test_config}
    else:
        functions |= {
            "forward": check_forward,
            "head": check_head,
            "levels": features.check_levels,
            "intermediates": features.check_intermediates,
            "features_only": features.check_features_only,
            "input_size": features.check_input_size,
            "dynamic_size": features.check_dynamic_size,
            "attention": training.check_attention,
            "grad_checkpointing": training.check_grad_checkpointing,
            "groups": training.check_groups,
            **module_checks(),
            "checkpoint": check_checkpoint,
            "exports": check_exports,
        }
    bare = entry.name.partition("/")[2] or entry.name
    return [Check(f"model/{bare}:{name}", partial(function, model)) for name, function in functions.items()]


def check_protocol(model: Model) -> None:
    """It is a module with every method and attribute of the protocol."""
    module = model.module(device="meta")
    assert isinstance(module, nn.Module), f"it builds a {type(module).__name__}, not a torch.nn.Module"
    missing = [f"{name}()" for name in METHODS if not callable(getattr(module, name, None))]
    missing += [name for name in ATTRIBUTES if not hasattr(module, name)]
    assert not missing, f"{type(module).__name__} lacks {', '.join(missing)}"
    for name, kind in ATTRIBUTES.items():
        found = getattr(module, name)
        assert isinstance(found, kind), f"{name} is {found!r}; it must be of type {kind.__name__}"
    assert module.num_classes == model.num_classes, (
        f"created with num_classes={model.num_classes}, it has num_classes={module.num_classes}"
    )


def check_on_meta(model: Model) -> None:
    """At its own size, without memory: logits and the features of every level have their shapes."""
    module = model.module(device="meta")
    image = model.inputs().to("meta")
    expected = (BATCH, model.num_classes)
    assert module(image).shape == expected, f"the logits have shape {tuple(module(image).shape)}, expected {expected}"
    features.assert_levels(module, image, module.forward_intermediates(image, intermediates_only=True))


def check_test_config(model: Model) -> None:
    """Its numbers are not checked, because nobody says how to build a small one."""
    raise Unavailable(
        "its registration has no test_config={...}, settings of a small model: its numbers, gradients and checkpoints "
        "were not checked"
    )


def check_forward(model: Model) -> None:
    """`forward` is `forward_head` of `forward_features`, and without classes gives features."""
    module, image = model.module(), model.inputs()
    with torch.no_grad():
        logits = module(image)
        _assert_shape("the logits have", logits, (BATCH, model.num_classes))
        assert logits.isfinite().all(), "the logits are not finite"
        parts = module.forward_head(module.forward_features(image))
        assert torch.equal(logits, parts), "forward(x) is not forward_head(forward_features(x))"
        flat = model.module(num_classes=0)(image)
        _assert_shape("with num_classes=0 the result has", flat, (BATCH, module.num_features))


def check_head(model: Model) -> None:
    """`pre_logits`, `get_classifier` and `reset_classifier`."""
    module, image = model.module(), model.inputs()
    with torch.no_grad():
        before = module.forward_features(image)
        pooled = module.forward_head(before, pre_logits=True)
        _assert_shape("forward_head(x, pre_logits=True) has", pooled, (BATCH, module.num_features))
        head = module.get_classifier()
        heads = head if isinstance(head, tuple) else (head,)
        assert all(isinstance(part, nn.Module) for part in heads), f"get_classifier() gives {head!r}, not the head"
        own = {id(part) for part in module.modules()}
        assert all(id(part) in own for part in heads), "get_classifier() gives a module that is not in the model"
        for classes, width in ((7, 7), (0, module.num_features), (3, 3)):
            module.reset_classifier(classes)
            assert module.num_classes == classes, f"after reset_classifier({classes}) num_classes={module.num_classes}"
            _assert_shape(f"after reset_classifier({classes}) the result has", module(image), (BATCH, width))
            assert torch.equal(module.forward_features(image), before), "reset_classifier changes the features"


def check_checkpoint(model: Model) -> None:
    """It is saved and loaded, with the same settings, weights and logits."""
    module, image = model.module(), model.inputs()
    with tempfile.TemporaryDirectory() as folder:
        vitzoo.save(module, Path(folder) / "model")
        try:
            loaded = vitzoo.load(Path(folder) / "model").eval()
        except VitzooError as error:
            raise AssertionError(f"what vitzoo.save wrote cannot be loaded: {error}") from error
    assert loaded.config == module.config, f"saved and loaded, the settings are {loaded.config}, not {module.config}"
    before, after = module.state_dict(), loaded.state_dict()
    differing = [name for name in before if name not in after or not torch.equal(before[name], after[name])]
    assert not differing, f"saved and loaded, other values stand in {', '.join(differing)}"
    with torch.no_grad():
        assert is_close(loaded(image), module(image)), "saved and loaded, it computes something else"
    plugin = model.entry.name.partition("/")[0] if "/" in model.entry.name else None
    assert plugin is None or plugin in requirements([module.model_name]), "its checkpoint does not name its plugin"


def check_exports(model: Model) -> None:
    """It exports with torch.export."""
    module, image = model.module(), model.inputs()
    with torch.no_grad():
        program = torch.export.export(module, (image,))
        assert is_close(program.module()(image), module(image)), "exported, it computes something else"


def _assert_shape(what: str, result: Tensor, expected: tuple[int, ...]) -> None:
    assert result.shape == expected, f"{what} shape {tuple(result.shape)}, expected {expected}"
