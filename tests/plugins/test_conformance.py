"""The plugins of this project under the conformance kit, as their installed packages."""

from __future__ import annotations

import vitzoo.testing

test_hybrid = vitzoo.testing.suite("hybrid", only=("package/*", "patch_embed/*", "model/vit_tiny_r_s16_p8_224:*"))
test_swin = vitzoo.testing.suite(
    "swin",
    only=("package/*", "weights/*", "model/tiny_patch4_window7_224:*", "model/v2_tiny_window8_256:*"),
)
