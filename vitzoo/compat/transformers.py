"""vitzoo's attention in the models of transformers: `model.set_attn_implementation(register("triton"))`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from vitzoo.attention.select import Attend, AttnLike
from vitzoo.compat.switch import switched
from vitzoo.errors import InputError, MissingPackageError, NameConflictError


def register(attn: AttnLike = "triton", *, name: str | None = None) -> str:
    """Make a backend of vitzoo known to transformers, for every model that asks its attention by name.

    Registers the attention and the kind of mask that it takes: with the attention alone, transformers would hand over
    no mask, and padding would be looked at.

    Args:
        attn: 'auto', a backend's name (that one and no other), or several in the order in which to try them.
        name: what to call it in transformers; when None, 'vitzoo_' and the name of the backend ('vitzoo_triton').

    Returns:
        The name, for `attn_implementation=` and `model.set_attn_implementation`.

    Raises:
        MissingPackageError: transformers is not installed, or is too old to know of other attention.
        UnknownNameError: no backend has such a name.
        BackendUnsupported: none of them can ever run here.
        NameConflictError: transformers knows another attention or mask by this name, or the name made here already
            stands for another choice of vitzoo's.
        InputError: the name has a '/' or a '|', which mean other things there.
    """
    try:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.integrations.sdpa_attention import sdpa_attention_forward
        from transformers.masking_utils import bidirectional_mask_function, sdpa_mask
    except ImportError as error:
        raise MissingPackageError(
            f"vitzoo's attention in transformers needs transformers >= 5: {error}; pip install 'transformers>=5'"
        ) from error
    chosen = (attn,) if isinstance(attn, str) else tuple(attn)
    made = name is None
    name = "_".join(["vitzoo", *chosen]).replace("/", "_") if name is None else name
    if "/" in name or "|" in name:
        raise InputError(
            f"name={name!r} has a '/' or a '|', which transformers takes for a kernel on the hub or a cache"
        )
    known, mask = AttentionInterface().get(name), AttentionMaskInterface().get(name)  # type: ignore[no-untyped-call]
    ours = known if isinstance(known, _Attention) else None
    for what, found, is_ours in (
        ("attention", known, known is ours),
        ("mask", mask, getattr(mask, "func", None) is _mask),
    ):
        if found is not None and not is_ours:
            raise NameConflictError(
                f"transformers already knows another {what} by the name {name!r}; pass another as name="
            )
    if made and ours is not None and ours.choice != chosen:
        raise NameConflictError(f"{name!r} already stands for attn={ours.choice!r}; pass a name for {attn!r} as name=")
    attention = _Attention(chosen, switched(sdpa_attention_forward, Attend(attn)))
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, partial(_mask, sdpa_mask, bidirectional_mask_function))
    return name


@dataclass(frozen=True)
class _Attention:
    """Transformers' own adapter to SDPA, but for SDPA itself: what it knows of groups, causes and caches holds.

    Args:
        choice: the names that were asked for.
        through: the adapter, switched.
    """

    choice: tuple[str, ...]
    through: Callable[..., Any]

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        """Run attention; queries are (B, H, N_q, D), keys and values (B, H_k, N_k, D), the result (B, N_q, H, D)."""
        for option, instead in (
            ("output_attentions", "attn_implementation='eager', or vitzoo.attention_maps on vitzoo's model"),
            ("softcap", "attn_implementation='eager'"),
            ("s_aux", "attn_implementation='eager'"),
        ):
            if options.get(option) is not None and options[option] is not False:
                raise InputError(f"{option} was asked of vitzoo's attention, which has none; use {instead}")
        found: tuple[Tensor, None] = self.through(module, query, key, value, attention_mask, **options)
        return found


def _mask(through: Callable[..., Any], bidirectional: Any, **options: Any) -> Tensor | None:
    """Return transformers' own mask for SDPA; of padding alone as (B, 1, 1, N_k), which becomes a key mask."""
    if options.get("mask_function") is bidirectional and not options.get("use_vmap"):
        options["q_length"] = 1
    return through(**options)
