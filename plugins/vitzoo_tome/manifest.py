"""What tome brings. vitzoo reads this whenever it lists names, so it imports no torch."""

from vitzoo import Registrar


def register(registrar: Registrar) -> None:
    """Name every part, and where it is; vitzoo imports a part when it is first used."""
    registrar.require_api(1)
    registrar.add(
        "block",
        "pre_norm",
        "vitzoo_tome.block:MergingBlock",
        doc="pre-norm, and r pairs of similar tokens merged after attention",
        test_args={"r": 3},
    )
