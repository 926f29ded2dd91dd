"""vitzoo's attention in a model that timm built: `use(model, "triton")`, and `restore(model)`."""

from __future__ import annotations

from typing import Any

from torch import nn

from vitzoo.attention.select import Attend, AttnLike
from vitzoo.compat.switch import Switch
from vitzoo.errors import InputError


def use(model: nn.Module, attn: AttnLike = "triton") -> nn.Module:
    """Run the attention of a timm model on a backend of vitzoo from now on; weights and results stay.

    Every layer with timm's switch `fused_attn` is taken, whatever its class: those that would call
    `F.scaled_dot_product_attention` call the backend instead. A layer whose kind of attention timm never fuses, such as
    that of Swin V2, stays as it is. Called again, it changes the choice.

    The model can be copied, pickled and compiled; torch.jit.script refuses it.

    Args:
        model: any model of timm, or a part of one.
        attn: 'auto', a backend's name (that one and no other), or several in the order in which to try them.

    Returns:
        The same model.

    Raises:
        InputError: no layer has the switch.
        UnknownNameError: no backend has such a name.
        BackendUnsupported: none of them can ever run this model; the model is left as it was.
    """
    layers = _fused_layers(model)
    attend = Attend()
    sizes = {getattr(layer, "head_dim", None) for layer in layers}
    attend.choose(attn, head_dims=sorted(size for size in sizes if isinstance(size, int)))
    restore(model)
    switch = Switch(attend)
    for layer in layers:
        # Set past nn.Module, so that the layer is no child of itself.
        layer.__dict__["forward"] = _Switched(layer, switch)
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
        switched = layer.__dict__.get("forward")
        if isinstance(switched, _Switched):
            layer.__dict__["fused_attn"] = switched.was_fused
            if switched.own is None:
                del layer.__dict__["forward"]
            else:
                layer.__dict__["forward"] = switched.own
    return model


class _Switched:
    """A layer's forward, within the switch."""

    def __init__(self, layer: nn.Module, switch: Switch) -> None:
        self.layer, self.switch, self.was_fused = layer, switch, layer.fused_attn
        # Another library may have put a forward of its own there.
        self.own = layer.__dict__.get("forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.switch:
            if self.own is not None:
                return self.own(*args, **kwargs)
            return type(self.layer).forward(self.layer, *args, **kwargs)


def _fused_layers(model: nn.Module) -> list[nn.Module]:
    layers = [layer for layer in model.modules() if isinstance(getattr(layer, "fused_attn", None), bool)]
    if not layers:
        raise InputError(
            f"{type(model).__name__} has no layer with timm's switch fused_attn, so none that could run elsewhere; "
            "for a model that vitzoo built use vitzoo.set_attention"
        )
    return layers
