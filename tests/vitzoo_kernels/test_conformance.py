"""vitzoo's own kernel under the checks that every attention backend passes."""

import pytest

import vitzoo.testing

# The interpreter is slow: what the tests of the kernel do not ask in the same form.
IN_THE_INTERPRETER = [
    f"attention/triton:{check}"
    for check in ("caps", "output", "inputs_unchanged", "scale", "strided", "equal_rows", "large_logits", "bias_*")
] + [
    f"attention/triton:{check}"
    for check in ("key_mask", "one_visible_key", "cross", "dropout*", "varlen", "opcheck", "in_a_model", "refuses_*")
]

test_in_the_interpreter = pytest.mark.interpreter(vitzoo.testing.suite("vitzoo", only=IN_THE_INTERPRETER))
test_on_a_gpu = pytest.mark.gpu(vitzoo.testing.suite("vitzoo", only=["attention/triton:*"]))
