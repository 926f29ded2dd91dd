"""vitzoo: Vision Transformers in which every part is swappable by name.

`import vitzoo` and `vitzoo.list_models()` import neither torch nor triton; the rest is imported at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitzoo import testing as testing
    from vitzoo.attention.caps import AttentionCaps as AttentionCaps
    from vitzoo.attention.maps import attention_maps as attention_maps
    from vitzoo.attention.maps import explain_attention as explain_attention
    from vitzoo.attention.maps import set_attention as set_attention
    from vitzoo.catalog import list_components as list_components
    from vitzoo.catalog import list_models as list_models
    from vitzoo.config import Component as Component
    from vitzoo.config import ViTConfig as ViTConfig
    from vitzoo.errors import LicenseWarning as LicenseWarning
    from vitzoo.errors import VitzooError as VitzooError
    from vitzoo.factory import create as create
    from vitzoo.parity.verify import verify as verify
    from vitzoo.plugin import PluginStatus as PluginStatus
    from vitzoo.plugin import Registrar as Registrar
    from vitzoo.plugin import plugins as plugins
    from vitzoo.plugin import register as register
    from vitzoo.preprocess import transforms as transforms
    from vitzoo.provenance import Provenance as Provenance
    from vitzoo.weights.disk import load as load
    from vitzoo.weights.disk import save as save
    from vitzoo.weights.push import push_to_hub as push_to_hub

__version__ = "0.1.0"

# Where each public name lives.
_HOMES = {
    "AttentionCaps": "vitzoo.attention.caps",
    "Component": "vitzoo.config",
    "LicenseWarning": "vitzoo.errors",
    "PluginStatus": "vitzoo.plugin",
    "Provenance": "vitzoo.provenance",
    "Registrar": "vitzoo.plugin",
    "ViTConfig": "vitzoo.config",
    "VitzooError": "vitzoo.errors",
    "attention_maps": "vitzoo.attention.maps",
    "create": "vitzoo.factory",
    "explain_attention": "vitzoo.attention.maps",
    "list_components": "vitzoo.catalog",
    "list_models": "vitzoo.catalog",
    "load": "vitzoo.weights.disk",
    "plugins": "vitzoo.plugin",
    "push_to_hub": "vitzoo.weights.push",
    "register": "vitzoo.plugin",
    "save": "vitzoo.weights.disk",
    "set_attention": "vitzoo.attention.maps",
    "transforms": "vitzoo.preprocess",
    "verify": "vitzoo.parity.verify",
}

__all__ = ["__version__", "testing", *_HOMES]


def __getattr__(name: str) -> Any:
    if name == "testing":
        return import_module("vitzoo.testing")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vitzoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
