"""The command `vitzoo`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; exit 0 when all went well, 1 on an error of vitzoo's, 2 on wrong usage, 130 on Ctrl-C."""
    from vitzoo.cli.app import app_for
    from vitzoo.cli.output import show_error
    from vitzoo.errors import VitzooError

    try:
        app_for(sys.argv[1:])()
    except VitzooError as error:
        if "--traceback" in sys.argv[1:]:
            raise
        show_error(str(error))
        sys.exit(1)
