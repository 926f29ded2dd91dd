"""The plugins of this project under the conformance kit, as their installed packages."""

from __future__ import annotations

import vitzoo.testing

test_swin = vitzoo.testing.suite(
    "swin",
    only=("package/*", "weights/*", "model/tiny_patch4_window7_224:*", "model/v2_tiny_window8_256:*"),
)
