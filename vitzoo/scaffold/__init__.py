"""Writing a complete plugin package to start from."""

from vitzoo.scaffold.write import KINDS, new_plugin

__all__ = ["KINDS", "new_plugin"]
