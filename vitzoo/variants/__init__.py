"""The tables of variants: one file a family."""

FAMILIES = ("vit",)
