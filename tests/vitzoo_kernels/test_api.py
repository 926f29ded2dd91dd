"""What the public function refuses, and with which words; none of it needs a kernel to run."""

import pytest
import torch
from vitzoo_kernels import attention, dropout_mask
from vitzoo_kernels.dense import supported


def tensors(**changes):
    shape = (2, 5, 3, 32)
    return {name: torch.zeros(shape) for name in "qkv"} | changes


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (tensors(k=[1.0]), TypeError, r"k is a list; attention takes tensors of shape \(B, N, H, D\)"),
        (tensors(scale="1"), TypeError, r"scale is a str; attention takes a Python number, or None for D \*\* -0.5"),
        (tensors(scale=torch.ones(())), TypeError, "scale is a Tensor"),
        (tensors(bias=[0.0]), TypeError, "bias is a list; attention takes a tensor"),
        (tensors(cu_seqlens_q=[0, 5]), TypeError, "cu_seqlens_q is a list; attention takes a tensor"),
        (tensors(dropout_p="1"), TypeError, "dropout_p is a str; attention takes a Python number from 0 to 1"),
        (
            tensors(q=torch.zeros(2, 5, 96)),
            ValueError,
            r"q has shape \(2, 5, 96\); attention takes \(B, N, H, D\): split the channels with unflatten",
        ),
        (
            tensors(k=torch.zeros(2, 5, 1, 32), v=torch.zeros(2, 5, 1, 32)),
            ValueError,
            r"shapes disagree: q \(2, 5, 3, 32\), k \(2, 5, 1, 32\), .*: expand k and v when queries share them",
        ),
        (tensors(v=torch.zeros(2, 6, 3, 32)), ValueError, r"shapes disagree: .* v \(2, 6, 3, 32\)"),
        (tensors(q=torch.zeros(1, 5, 3, 32)), ValueError, r"shapes disagree: q \(1, 5, 3, 32\)"),
        (
            tensors(q=torch.zeros(1, 5, 3, 32), key_mask=torch.ones(2, 5, dtype=torch.bool)),
            ValueError,
            r"shapes disagree: q \(1, 5, 3, 32\)",
        ),
        (tensors(q=torch.zeros(1, 5, 3, 32), dropout_p=0.5), ValueError, r"shapes disagree: q \(1, 5, 3, 32\)"),
        (tensors(dropout_p=1.5), ValueError, "dropout_p is 1.5; it is a share from 0 to 1"),
        (tensors(dropout_p=0.5, bias=torch.zeros(3, 3)), ValueError, r"bias is \(3, 3\) of float32"),
        (tensors(q=torch.zeros(2, 0, 3, 32)), ValueError, r"a size is 0: q \(2, 0, 3, 32\).*at least one image, query"),
        (
            tensors(k=torch.zeros(2, 0, 3, 32), v=torch.zeros(2, 0, 3, 32)),
            ValueError,
            r"a size is 0: .* k \(2, 0, 3, 32\)",
        ),
        (
            {name: torch.zeros(1, 5, 3, 36) for name in "qkv"},
            ValueError,
            r"head dim 36 \(supported: multiples of 8 from 16 to 128\); choose another number of heads",
        ),
        ({name: torch.zeros(1, 5, 3, 136) for name in "qkv"}, ValueError, "head dim 136"),
        ({name: torch.zeros(1, 5, 3, 8) for name in "qkv"}, ValueError, "head dim 8 "),
        (
            tensors(v=torch.zeros(2, 5, 3, 32).half()),
            ValueError,
            r"dtypes q float32, k float32, v float16 \(supported: one of float16, bfloat16, float32 for all three\)",
        ),
        (
            {name: torch.zeros(2, 5, 3, 32).double() for name in "qkv"},
            ValueError,
            "dtypes q float64, .*cast them, or use attention_reference",
        ),
        (
            tensors(k=torch.zeros(2, 5, 3, 32, device="meta")),
            ValueError,
            "devices disagree: q cpu, k meta, v cpu; move them to one device",
        ),
        (
            tensors(v=torch.zeros(2, 5, 32, 3).mT),
            ValueError,
            r"the last dimension of v has stride 3 \(supported: 1, .*\); call v.contiguous\(\) first",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, words):
    before = torch.random.get_rng_state()
    with pytest.raises(error, match=words):
        attention(**arguments)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_seed_that_is_no_tensor_is_refused_for_the_mask_too():
    with pytest.raises(TypeError, match="dropout_seed is a list; attention takes a tensor"):
        dropout_mask([1, 2], 0.1, (1, 1, 4, 4))


def test_a_longest_length_is_a_number_and_not_a_truth():
    starts = torch.tensor([0, 5], dtype=torch.int32)
    sequences = {"cu_seqlens_q": starts, "cu_seqlens_k": starts, "max_seqlen_q": True, "max_seqlen_k": 5}
    with pytest.raises(ValueError, match="max_seqlen_q is True; it is the length of the longest sequence, at least 1"):
        attention(**{name: torch.zeros(1, 5, 3, 32) for name in "qkv"}, **sequences)


def test_shapes_can_be_computed_without_a_device():
    q, k = torch.zeros(2, 5, 3, 32, device="meta"), torch.zeros(2, 7, 3, 32, device="meta")
    out, lse = attention(q, k, k, return_lse=True)
    assert (out.shape, out.dtype, lse.shape, lse.dtype) == (q.shape, torch.float32, (2, 3, 5), torch.float32)


def test_what_is_supported_is_plain_data():
    assert supported.HEAD_DIMS == (16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128)
    assert set(supported.INTERPRETER_DTYPES) < set(supported.DTYPES)
    assert all(isinstance(getattr(torch, name), torch.dtype) for name in supported.DTYPES)
