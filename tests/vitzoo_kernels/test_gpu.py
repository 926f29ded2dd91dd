"""The kernels on a CUDA GPU: numbers in every dtype, sizes that only a GPU holds, and the operators under Inductor."""

import os
import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch
from vitzoo_kernels import attention, attention_qkvpacked, attention_reference, dropout_mask

from vitzoo.testing import check_attention_numbers

pytestmark = pytest.mark.gpu

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


@pytest.mark.parametrize(
    ("dtype", "batch", "num_queries", "num_keys", "num_heads", "head_dim"),
    [
        (BF16, 8, 197, 197, 6, 64),
        (F16, 8, 197, 197, 6, 64),
        (F32, 4, 197, 197, 6, 64),
        (BF16, 4, 257, 257, 4, 80),
        (BF16, 4, 1, 1, 4, 16),
        (BF16, 4, 1, 65, 4, 128),
        (F16, 4, 37, 50, 4, 32),
        (F16, 2, 729, 729, 4, 72),
        (F32, 2, 65, 261, 4, 128),
        (F32, 4, 31, 2, 4, 24),
        (BF16, 2, 577, 196, 4, 88),
        (BF16, 2, 1025, 1025, 2, 96),
        # Pieces of 32, 16 and 8 columns that 4 and 8 warps multiply, which compilers have had trouble with.
        (BF16, 4, 197, 197, 4, 32),
        (BF16, 4, 96, 96, 4, 64),
        (BF16, 4, 50, 50, 4, 80),
        # Many heads, each a program of its own forward, with every table for Hopper; all but the last two backward too.
        (BF16, 44, 197, 197, 6, 64),
        (F16, 44, 261, 261, 6, 64),
        (F16, 66, 120, 120, 4, 80),
        (BF16, 66, 197, 197, 4, 80),
        (F16, 66, 100, 200, 4, 72),
    ],
)
def test_output_lse_and_gradients_are_within_budget(
    random_qkv, dtype, batch, num_queries, num_keys, num_heads, head_dim
):
    q, k, v = random_qkv(batch, num_queries, num_keys, num_heads, head_dim, dtype=dtype, device="cuda")
    check_attention_numbers(attention, q, k, v)


# Of four heads each. The first has a program a head, forward and backward, the next one backward.
@pytest.mark.parametrize(
    ("dtype", "batch", "num_tokens", "head_dim", "masked", "with_bias", "p"),
    [
        (BF16, 66, 197, 64, True, False, 0.0),
        (F16, 66, 120, 64, False, False, 0.1),
        (F16, 66, 257, 80, False, False, 0.1),
        (BF16, 66, 197, 64, True, True, 0.1),
        (BF16, 2, 577, 72, True, True, 0.2),
        (BF16, 2, 197, 48, False, True, 0.1),
        (BF16, 2, 197, 112, False, True, 0.0),
        (F32, 2, 261, 88, True, False, 0.5),
        (F16, 2, 50, 128, False, True, 0.0),
    ],
)
def test_every_feature_is_within_budget(random_qkv, dtype, batch, num_tokens, head_dim, masked, with_bias, p):
    q, k, v = random_qkv(batch, num_tokens, num_tokens, 4, head_dim, dtype=dtype, device="cuda")
    generator = torch.Generator().manual_seed(1)
    arguments = {}
    if masked:
        mask = torch.rand(batch, num_tokens, generator=generator) < 0.6
        mask[-1] = False
        arguments["key_mask"] = mask.cuda()
    if with_bias:
        bias = torch.randn(4, num_tokens, num_tokens, generator=generator)
        arguments["bias"] = bias.to("cuda", dtype).requires_grad_()
    function = attention
    if p:
        seed = torch.tensor([2**40 + 3, 2**33 + 1], device="cuda")
        arguments["dropout"] = (dropout_mask(seed, p, (batch, 4, num_tokens, num_tokens)), p)
        function = partial(attention, dropout_p=p, dropout_seed=seed)
    check_attention_numbers(function, q, k, v, **arguments)


# Without a gradient of the bias, up to 128 keys have a program a head backward.
@pytest.mark.parametrize("p", [0.0, 0.1])
def test_a_bias_that_does_not_learn_is_within_budget(random_qkv, p):
    q, k, v = random_qkv(4, 120, 120, 4, 64, dtype=BF16, device="cuda")
    generator = torch.Generator().manual_seed(1)
    arguments = {"bias": torch.randn(4, 120, 120, generator=generator).to("cuda", BF16)}
    function = attention
    if p:
        seed = torch.tensor([2**40 + 3, 2**33 + 1], device="cuda")
        arguments["dropout"] = (dropout_mask(seed, p, (4, 4, 120, 120)), p)
        arguments["key_mask"] = torch.rand(4, 120, generator=generator).cuda() < 0.6
        function = partial(attention, dropout_p=p, dropout_seed=seed)
    check_attention_numbers(function, q, k, v, **arguments)


@pytest.mark.parametrize(("batch", "num_tokens"), [(66, 197), (2, 577)])
def test_what_stands_in_a_masked_key_never_matters(random_qkv, batch, num_tokens):
    mask = torch.rand(batch, num_tokens, generator=torch.Generator().manual_seed(1)).cuda() < 0.6
    results = []
    for filling in (0.0, float("nan"), float("inf")):
        q, k, v = random_qkv(batch, num_tokens, num_tokens, 4, 64, dtype=BF16, device="cuda")
        for x in (k, v):
            x[~mask] = filling
        leaves = [x.requires_grad_() for x in (q, k, v)]
        out, lse = attention(*leaves, key_mask=mask, return_lse=True)
        results.append([out, lse, *torch.autograd.grad(out.sin().sum() + lse.sum(), leaves)])
    for found in results[1:]:
        for name, a, b in zip(("out", "lse", "dq", "dk", "dv"), found, results[0], strict=True):
            assert torch.equal(a, b), name


# A program a head, tiles alone, and heads that share a program.
@pytest.mark.parametrize(("batch", "num_tokens"), [(66, 197), (2, 577), (4, 50)])
def test_without_its_lse_an_output_has_the_same_bits(random_qkv, batch, num_tokens):
    tensors = random_qkv(batch, num_tokens, num_tokens, 4, 64, dtype=BF16, device="cuda")
    expected, _ = attention(*tensors, return_lse=True)
    # Planned, and from its plan.
    for _ in range(2):
        assert torch.equal(attention(*tensors), expected)


def test_tf32_is_used_where_torch_allows_it(random_qkv):
    q, k, v = random_qkv(4, 197, 197, 4, 64, device="cuda")
    exact = attention(q, k, v)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        check_attention_numbers(attention, q, k, v)
        assert not torch.equal(attention(q, k, v), exact)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(attention(q, k, v), exact)


@pytest.mark.parametrize("head_dim", [64, 72])
def test_packed_slices_give_the_same_bits_as_copies(head_dim):
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(4, 197, 3, 6, head_dim, generator=generator).to("cuda", BF16)
    results = []
    for inputs in (qkv.unbind(2), [x.contiguous() for x in qkv.unbind(2)]):
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = attention(*leaves)
        results.append([out, *torch.autograd.grad(out.sum(), leaves)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


# Fewer heads than have a program each, and as many.
@pytest.mark.parametrize("batch", [60, 66])
def test_many_runs_give_the_same_bits(random_qkv, batch):
    inputs = [x.requires_grad_() for x in random_qkv(batch, 197, 197, 4, 64, dtype=BF16, device="cuda")]
    first = None
    for _ in range(50):
        out, lse = attention(*inputs, return_lse=True)
        found = [out, lse, *torch.autograd.grad(out.square().sum() + lse.sum(), inputs)]
        first = found if first is None else first
        for a, b in zip(found, first, strict=True):
            assert torch.equal(a, b)


def test_more_heads_than_the_second_grid_axis_holds(random_qkv):
    q, k, v = random_qkv(70_000, 3, 5, 1, 16, dtype=F16, device="cuda")
    check_attention_numbers(attention, q, k, v)


def test_offsets_pass_two_to_the_31_elements():
    if torch.cuda.mem_get_info()[0] < 8 * 2**30:
        pytest.skip("needs 8 GiB of free GPU memory")
    stride_b = 2**31 + 8
    memory = torch.empty(stride_b + 197 * 3 * 128, dtype=F16, device="cuda")
    qkv = memory.as_strided((2, 197, 3, 2, 64), (stride_b, 384, 128, 64, 1))
    qkv.copy_(torch.randn(qkv.shape, generator=torch.Generator().manual_seed(0)))
    results = []
    for inputs in (qkv.unbind(2), qkv.contiguous().unbind(2)):
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = attention(*leaves)
        results.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


# Inductor of torch 2.11 imports what torch 2.11 calls deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_inductor_compiles_one_graph_with_the_same_bits(random_qkv):
    def layer(q, k, v):
        return attention(q, k, v).flatten(2)

    inputs = [x.requires_grad_() for x in random_qkv(2, 197, 197, 3, 64, dtype=BF16, device="cuda")]
    compiled = torch.compile(layer, fullgraph=True)
    results = [(out := f(*inputs), *torch.autograd.grad(out.sum(), inputs)) for f in (compiled, layer)]
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_inductor_captures_the_first_call_of_its_kind(random_qkv):
    def layer(q, k, v):
        return attention(q, k, v).flatten(2)

    # Of a shape that no other test has: what is planned and allocated for it is so in the graph's own memory.
    inputs = [x.requires_grad_() for x in random_qkv(2, 61, 61, 3, 64, dtype=BF16, device="cuda")]
    compiled = torch.compile(layer, fullgraph=True, mode="reduce-overhead")
    results = []
    # It warms up, records and replays; what it returns is overwritten by the next call.
    for function in (compiled, compiled, compiled, layer):
        torch.compiler.cudagraph_mark_step_begin()
        out = function(*inputs)
        results.append([x.clone() for x in (out, *torch.autograd.grad(out.sum(), inputs))])
    for found in results[:-1]:
        for a, b in zip(found, results[-1], strict=True):
            assert torch.equal(a, b)


def test_a_captured_graph_replays(random_qkv):
    q, k, v = random_qkv(2, 197, 197, 3, 64, dtype=BF16, device="cuda")
    expected = attention(q, k, v)  # compiles, outside the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attention(q, k, v)
    graph.replay()
    assert torch.equal(out, expected)


def test_a_captured_training_step_replays_with_new_inputs():
    generator = torch.Generator().manual_seed(0)
    qkv, other = (torch.randn(2, 197, 3, 3, 64, generator=generator).to("cuda", BF16) for _ in range(2))
    bias = torch.randn(3, 197, 197, generator=generator).to("cuda", BF16).requires_grad_()
    seed = torch.tensor([3, 4], device="cuda")
    qkv.requires_grad_()

    def step():
        out = attention_qkvpacked(qkv, bias=bias, dropout_p=0.1, dropout_seed=seed)
        return [out, *torch.autograd.grad(out.float().square().sum(), (qkv, bias))]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # Compiles outside the capture, and shows that another stream gives the same.
        first = step()
    torch.cuda.current_stream().wait_stream(stream)
    assert all(torch.equal(a, b) for a, b in zip(first, step(), strict=True))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        qkv.copy_(other)
    graph.replay()
    for a, b in zip(captured, step(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(captured[0], first[0])


def test_logits_of_ten_thousand_are_within_budget(random_qkv):
    q, k, v = random_qkv(2, 37, 50, 2, 64, device="cuda")
    check_attention_numbers(attention, q / 100 + 35.0, k / 100 + 35.0, v)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", [0, 1, 2], ids=["q", "k", "v"])
def test_what_is_not_finite_goes_where_the_reference_says(random_qkv, where, value):
    inputs = random_qkv(2, 37, 67, 2, 48, device="cuda")
    inputs[where][1, 36, 0, 3] = value
    for a, b in zip(attention(*inputs, return_lse=True), attention_reference(*inputs, return_lse=True), strict=True):
        assert torch.equal(a.isfinite(), b.isfinite())


def test_the_device_of_the_tensor_is_used(random_qkv):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA GPUs")
    q, k, v = random_qkv(2, 37, 50, 2, 64, dtype=BF16, device="cuda:1")
    assert torch.cuda.current_device() == 0
    check_attention_numbers(attention, q, k, v)


SANITIZED = """
import torch, vitzoo_kernels
for batch, tokens, head_dim in ((2, 37, 72), (2, 65, 64), (2, 300, 16), (132, 100, 64)):
    qkv = torch.randn(batch, tokens, 3, 2, head_dim, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    bias = torch.randn(2, tokens, tokens, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    vitzoo_kernels.attention_qkvpacked(qkv).sum().backward()
    vitzoo_kernels.attention_qkvpacked(qkv, bias=bias, dropout_p=0.1).sum().backward()
torch.cuda.synchronize()
"""


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_the_sanitizer_finds_nothing(tool):
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if sanitizer is None:
        pytest.skip("needs compute-sanitizer, which CUDA's toolkit has")
    done = subprocess.run(
        [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", SANITIZED],
        capture_output=True,
        text=True,
        # Torch's own allocator would hide a write past a tensor's end.
        env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
