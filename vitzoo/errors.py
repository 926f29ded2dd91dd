"""The errors vitzoo raises on purpose. Each is a `VitzooError` and also the builtin that it is a case of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class VitzooError(Exception):
    """Base of every error that vitzoo raises on purpose."""


class UnknownNameError(VitzooError, LookupError):
    """A model, component, plugin, tag or field was asked for by a name that nothing has."""


class NameConflictError(VitzooError, ValueError):
    """Two providers claim one name; nothing is ever replaced silently."""


class PluginError(VitzooError, ImportError):
    """A plugin that is needed is missing, broken or made for another version of the plugin API."""


class MissingPackageError(VitzooError, ImportError):
    """An optional package that the call needs is not installed."""


class ConfigError(VitzooError, ValueError):
    """A configuration holds a value that no model can have, or was written by a newer vitzoo."""


class InputError(VitzooError, ValueError):
    """The tensor handed to a model, or an argument of one of its methods, does not fit the model."""


class BackendUnsupported(VitzooError, RuntimeError):  # noqa: N818 - the name says what happened
    """No allowed attention backend can run the call; the message holds every reason of every candidate."""


class CheckpointError(VitzooError, ValueError):
    """A file of weights does not fit the model, is damaged or is not a file of weights. Nothing was loaded."""


class WriteError(VitzooError, OSError):
    """Files could not be written; what stood in their places is as it was."""


class UnsafeFileError(VitzooError, ValueError):
    """A file could only be read by unpickling code from it, which vitzoo never does."""


class ImageError(VitzooError, ValueError):
    """A file that was given as an image cannot be read as one."""


class LicenseWarning(UserWarning):
    """Weights were loaded whose licence is not permissive, or that are gated; said once for a checkpoint."""


def near_names(asked: str, known: Iterable[str], *, count: int = 3) -> list[str]:
    """Return the known names that `asked` may be a slip of, nearest first."""
    names = sorted(set(known))
    near = get_close_matches(asked, names, n=count, cutoff=0.6)
    inside = [name for name in names if asked and (name.startswith(asked) or asked.startswith(name))]
    return list(dict.fromkeys(near + inside))[:count]


def suggestion(asked: str, known: Sequence[str]) -> str:
    """Return ' Did you mean ...?' when a known name is near, else the known names when they are few."""
    near = near_names(asked, known)
    if near:
        return " Did you mean " + " or ".join(repr(name) for name in near) + "?"
    if 0 < len(known) <= 16:
        return " Known: " + ", ".join(sorted(known)) + "."
    return ""
