"""The command `vitzoo`."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command; exit 0 when all went well, 1 on an error of vitzoo's, 2 on wrong usage, 130 on Ctrl-C."""
    # What imports make stays; looking through it for garbage took 20 of the 300 ms that a listing needs.
    gc.disable()
    from vitzoo.cli.app import app_for
    from vitzoo.cli.output import show_error
    from vitzoo.errors import VitzooError

    app = app_for(sys.argv[1:])
    gc.freeze()
    gc.enable()
    try:
        app()
    except VitzooError as error:
        if "--traceback" in sys.argv[1:]:
            raise
        show_error(str(error))
        sys.exit(1)
