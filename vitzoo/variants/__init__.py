"""The tables of variants: one file a family."""

FAMILIES = (
    "vit",
    "deit",
    "dinov2",
    "dinov3",
    "clip",
    "siglip",
    "sbb",
    "rope",
    "flexivit",
    "torchvision",
    "classic",
    "eva",
    "beit3",
    "aimv2",
    "tipsv2",
    "pe",
    "radio",
    "lingbot",
)
