"""`python -m vitzoo` is the command `vitzoo`."""

from vitzoo.cli import main

main()
