"""Attention kernels for Vision Transformers, usable without vitzoo.

Importing this package imports neither torch nor triton: each public function is imported at first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitzoo_kernels.dense.api import attention, attention_qkvpacked, attention_varlen, dropout_mask
    from vitzoo_kernels.dense.reference import attention_reference, attention_rows

__all__ = [
    "attention",
    "attention_qkvpacked",
    "attention_reference",
    "attention_rows",
    "attention_varlen",
    "dropout_mask",
]

_MODULES = {
    "attention": "vitzoo_kernels.dense.api",
    "attention_qkvpacked": "vitzoo_kernels.dense.api",
    "attention_varlen": "vitzoo_kernels.dense.api",
    "dropout_mask": "vitzoo_kernels.dense.api",
    "attention_reference": "vitzoo_kernels.dense.reference",
    "attention_rows": "vitzoo_kernels.dense.reference",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'vitzoo_kernels' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
