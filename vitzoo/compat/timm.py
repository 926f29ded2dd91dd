"""vitzoo's attention in a model that timm built: `use(model, "triton")`, and `restore(model)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from vitzoo.attention.select import Attend, AttnLike
from vitzoo.compat.switch import switched
from vitzoo.errors import InputError


def use(model: nn.Module, attn: AttnLike = "triton") -> nn.Module:
    """Run the attention of a timm model on a backend of vitzoo from now on; weights and results stay.

    Every layer with timm's switch `fused_attn` is taken, whatever its class: those that would call
    `F.scaled_dot_product_attention` call the backend instead. A layer whose kind of attention timm never fuses, such as
    that of Swin V2, stays as it is. Called again, it changes the choice.

    The model can be deep-copied, pickled and compiled; torch.jit.script refuses it. A shallow copy of a layer, which
    `nn.DataParallel` makes too, runs the layer that it was copied from.

    Args:
        model: any model of timm, or a part of one.
        attn: 'auto', a backend's name (that one and no other), or several in the order in which to try them.

    Returns:
        The same model.

    Raises:
        InputError: no layer has the switch, or another library has put a forward of its own into one.
        UnknownNameError: no backend has such a name.
        BackendUnsupported: none of them can ever run this model; the model is left as it was.
    """
    layers = _fused_layers(model)
    attend = Attend()
    sizes = {getattr(layer, "head_dim", None) for layer in layers}
    attend.choose(attn, head_dims=sorted(size for size in sizes if isinstance(size, int)))
    functions = {kind: switched(kind.forward, attend) for kind in {type(layer) for layer in layers}}
    restore(model)
    for layer in layers:
        # Set past nn.Module, so that the layer is no child of itself.
        layer.__dict__["forward"] = _Switched(layer, attend, functions[type(layer)])
        layer.__dict__["fused_attn"] = True
    return model


def restore(model: nn.Module) -> nn.Module:
    """Undo `use`: timm's layers run as they did before. A model that `use` never saw is left alone.

    Args:
        model: a model of timm.

    Returns:
        The same model.
    """
    for layer in model.modules():
        forward = layer.__dict__.get("forward")
        if isinstance(forward, _Switched):
            del layer.__dict__["forward"]
            layer.__dict__["fused_attn"] = forward.was_fused
    return model


class _Switched:
    """A layer's forward on a backend of vitzoo; a copy of the layer gets one of its own."""

    def __init__(self, layer: nn.Module, attend: Attend, function: Callable[..., Any]) -> None:
        self.layer, self.attend, self.was_fused = layer, attend, layer.fused_attn
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(self.layer, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_function"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._function = switched(type(self.layer).forward, self.attend)


def _fused_layers(model: nn.Module) -> list[nn.Module]:
    layers = {
        name: layer for name, layer in model.named_modules() if isinstance(getattr(layer, "fused_attn", None), bool)
    }
    if not layers:
        raise InputError(
            f"{type(model).__name__} has no layer with timm's switch fused_attn, so none that could run elsewhere; "
            "for a model that vitzoo built use vitzoo.set_attention"
        )
    for name, layer in layers.items():
        if not isinstance(layer.__dict__.get("forward"), _Switched | None):
            raise InputError(f"another library has put a forward of its own into {name!r}; call use() before it does")
    return list(layers.values())
