"""What a call like an earlier one launches: the same as the first, without asking Triton again. No GPU."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import weakref
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from triton import knobs
from vitzoo_kernels import attention, attention_qkvpacked
from vitzoo_kernels.dense import configs, launch, planning, plans


class FakeKernel:
    """A kernel that writes down what it is launched with: first as Triton's launcher, then as the compiled kernel."""

    def __init__(self, kernel):
        self.name, self.arg_names = kernel.__name__, kernel.arg_names
        self.first, self.later, self.programs = [], [], []

    def __getitem__(self, grid):
        def launch_once(**arguments):
            self.first.append((grid, [arguments.get(name) for name in self.arg_names]))
            compiled = FakeCompiled(self.later)
            self.programs.append(weakref.ref(compiled))
            return compiled

        return launch_once


class FakeCompiled:
    function, packed_metadata = "function", "metadata"

    def __init__(self, launches):
        def run(x, y, z, stream, *arguments):
            # Nobody watches: nothing is made for hooks, and none is called.
            assert (stream, *arguments[:5]) == ("stream", "function", "metadata", None, None, None)
            launches.append(((x, y, z), list(arguments[5:])))

        # As Triton's launcher, it does not hold what it launches.
        self.run = run


@pytest.fixture
def kernels(monkeypatch):
    """Let the launcher launch fake kernels; return them by name."""
    found = {}
    for name in [name for name in vars(planning) if name.endswith("_kernel")]:
        found[name] = FakeKernel(getattr(planning, name))
        monkeypatch.setattr(planning, name, found[name])
    monkeypatch.setattr(planning, "_check_device", lambda q: None)
    monkeypatch.setattr(plans, "_current_stream", lambda: lambda: "stream")
    monkeypatch.setattr(launch, "_plans", plans.Plans())
    return found


def without_addresses(arguments, first):
    """Return arguments with how 16 divides an address in its place: every call has tensors of its own."""
    return [
        (x.data_ptr() if isinstance(x, torch.Tensor) else x) % 16 if isinstance(place, torch.Tensor) else x
        for x, place in zip(arguments, first, strict=True)
    ]


def both_ways(qkv, call, **options):
    """Call forward and backward."""
    out = call(qkv, **options)
    torch.autograd.grad(out, qkv, torch.ones_like(out))


@pytest.mark.parametrize(("tokens", "num_heads"), [(197, 2), (577, 2), (197, 264)])
@pytest.mark.parametrize("options", [{}, {"bias": True, "key_mask": True, "dropout_p": 0.1}], ids=["plain", "rich"])
def test_the_second_call_gives_the_compiled_kernel_what_the_first_gave_triton(kernels, tokens, num_heads, options):
    options = dict(options)
    if "bias" in options:
        options["bias"] = torch.zeros(1, tokens, tokens, requires_grad=True)
        options["key_mask"] = torch.ones(1, tokens, dtype=torch.bool)
        options["dropout_seed"] = torch.zeros(2, dtype=torch.int64)
    qkv = torch.zeros(1, tokens, 3, num_heads, 64, dtype=torch.bfloat16, requires_grad=True)
    for _ in range(3):
        both_ways(qkv, attention_qkvpacked, **options)
    launched = {name: kernel for name, kernel in kernels.items() if kernel.first}
    forward = "attention_forward_whole_kernel" if num_heads == 264 and not options else "attention_forward_kernel"
    assert forward in launched
    assert len(launched) >= 2
    for kernel in launched.values():
        ((grid, first),) = kernel.first
        assert len(kernel.later) == 2
        for later_grid, arguments in kernel.later:
            assert later_grid == grid
            assert without_addresses(arguments, first) == without_addresses(first, first), kernel.name
    # The tensors are those of the call: inputs stay, and every call writes memory of its own.
    _, arguments = kernels[forward].later[-1]
    given = dict(zip(kernels[forward].arg_names, arguments, strict=True))
    assert given["q_ptr"] == qkv.data_ptr()
    assert given["v_ptr"] == qkv.select(2, 2).data_ptr()


@pytest.mark.parametrize(
    "change",
    [
        lambda qkv: qkv[:, :196],
        lambda qkv: qkv.half(),
        lambda qkv: qkv.transpose(0, 1).contiguous().transpose(0, 1),
        lambda qkv: torch.zeros(qkv.numel() + 1, dtype=qkv.dtype)[1:].view(qkv.shape),
    ],
    ids=["length", "dtype", "strides", "alignment"],
)
def test_whatever_a_launch_depends_on_makes_a_new_plan(kernels, change):
    qkv = torch.zeros(2, 197, 3, 2, 64, dtype=torch.bfloat16)
    forward = kernels["attention_forward_kernel"]
    attention(*qkv.unbind(2))
    attention(*qkv.clone().unbind(2))
    assert (len(forward.first), len(forward.later)) == (1, 1)
    attention(*change(qkv).unbind(2))
    assert (len(forward.first), len(forward.later)) == (2, 1)
    attention(*qkv.unbind(2), scale=0.5)
    assert (len(forward.first), len(forward.later)) == (3, 1)


# As a projection writes them, with room after each token, after each of the three and in front, and one after the other.
PACKED = {
    "projection": lambda: torch.zeros(2, 17, 3, 2, 64, dtype=torch.bfloat16),
    "rows": lambda: torch.zeros(2, 17, 400, dtype=torch.bfloat16)[..., :384].unflatten(-1, (3, 2, 64)),
    "slices": lambda: torch.zeros(2, 17, 3, 3, 64, dtype=torch.bfloat16)[:, :, :, 1:],
    "offset": lambda: torch.zeros(2 * 17 * 3 * 2 * 64 + 3, dtype=torch.bfloat16)[3:].view(2, 17, 3, 2, 64),
    "apart": lambda: torch.zeros(3, 2, 17, 2, 64, dtype=torch.bfloat16).permute(1, 2, 0, 3, 4),
    "float32": lambda: torch.zeros(2, 17, 3, 2, 65)[..., :64],
}


def pointers(kernel, launch_of):
    """Return the addresses, by name, of what a kernel was launched with."""
    _, arguments = launch_of
    given = dict(zip(kernel.arg_names, arguments, strict=True))
    return {
        name.removesuffix("_ptr"): x.data_ptr() if isinstance(x, torch.Tensor) else x
        for name, x in given.items()
        if name.endswith("_ptr")
    }


@pytest.mark.parametrize("layout", PACKED)
@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
def test_slices_of_one_tensor_are_where_torch_has_them(kernels, monkeypatch, layout, split):
    if split:
        find = configs.find
        monkeypatch.setattr(
            configs, "find", lambda *asked: None if asked[2].kernel == "backward_whole" else find(*asked)
        )
    qkv = PACKED[layout]().requires_grad_()
    for _ in range(2):
        (gradient,) = torch.autograd.grad(attention_qkvpacked(qkv).sum(), qkv)
    launched = {name: kernel for name, kernel in kernels.items() if kernel.later}
    assert not split or len(launched) == 3
    expected = {name: x.data_ptr() for name, x in zip("qkv", qkv.unbind(2), strict=True)}
    expected |= {f"d{name}": x.data_ptr() for name, x in zip("qkv", gradient.unbind(2), strict=True)}
    seen = set()
    for kernel in launched.values():
        first, later = pointers(kernel, kernel.first[0]), pointers(kernel, kernel.later[0])
        assert all(first[name] == later[name] == expected[name] for name in "qkv")
        given = {name for name in later if name in expected}
        assert all(later[name] == expected[name] for name in given), kernel.name
        seen |= given
    assert seen == expected.keys()


@pytest.mark.parametrize("packed", [False, True], ids=["three", "packed"])
def test_the_backward_reads_tensors_where_and_how_they_come_back(kernels, packed):
    """Whoever keeps tensors for it, to save memory, may give back others: elsewhere, and with other strides."""
    qkv = PACKED["rows"]().requires_grad_()
    inputs = (qkv,) if packed else qkv.detach().unbind(2)
    inputs = [x.requires_grad_() for x in inputs]
    call = attention_qkvpacked if packed else attention
    given = []

    def back(x):
        given.append(x.clone(memory_format=torch.contiguous_format))
        return given[-1]

    def gradients():
        given.clear()
        out = call(*inputs)
        torch.autograd.grad(out, inputs, torch.ones_like(out))

    backward = kernels["attention_backward_whole_kernel"]
    strides = [name for name in backward.arg_names if re.fullmatch("[qkv]_stride_n", name)]
    for _ in range(2):
        gradients()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, back):
        for asked, kept in ((2, 1), (2, 2)):
            gradients()
            assert (len(backward.first), len(backward.later)) == (asked, kept)
            last = backward.first[-1] if kept == 1 else backward.later[-1]
            expected = given[0].unbind(2) if packed else given[:3]
            found = pointers(backward, last)
            assert [found[name] for name in "qkv"] == [x.data_ptr() for x in expected]
            values = dict(zip(backward.arg_names, last[1], strict=True))
            assert [values[name].value * 8 for name in strides] == [x.stride(1) for x in expected]
    gradients()
    assert (len(backward.first), len(backward.later)) == (2, 3)


def test_the_rounding_of_float32_products_is_asked_for_at_every_call(kernels):
    qkv = torch.zeros(1, 17, 3, 2, 64)
    forward = kernels["attention_forward_kernel"]
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "high"):
            torch.set_float32_matmul_precision(precision)
            attention(*qkv.unbind(2))
    finally:
        torch.set_float32_matmul_precision(before)
    place = forward.arg_names.index("PRECISION")
    assert [arguments[place] for _, arguments in forward.first] == ["ieee", "tf32"]


def test_both_of_torchs_settings_for_float32_products_count(kernels):
    q, k, v = torch.zeros(1, 17, 3, 2, 64).unbind(2)
    forward = kernels["attention_forward_kernel"]
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    try:
        for precision in ("ieee", "tf32"):
            settings.fp32_precision = precision
            attention(q, k, v)
            attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), scale=0.1)
    finally:
        settings.fp32_precision = before
    place = forward.arg_names.index("PRECISION")
    asked = [arguments[place] for _, arguments in forward.first if arguments[0].dtype == torch.float32]
    assert asked == ["ieee", "tf32"]


@pytest.mark.parametrize("hook", ["launch_enter_hook", "launch_exit_hook"])
@pytest.mark.parametrize("replaced", [False, True], ids=["added", "replaced"])
def test_whoever_watches_launches_is_told_of_all(kernels, hook, replaced):
    """Triton tells its hooks; what is launched past Triton nobody would hear of."""
    qkv = torch.zeros(1, 17, 3, 2, 64, dtype=torch.bfloat16, requires_grad=True)
    launched = [kernels["attention_forward_kernel"], kernels["attention_backward_whole_kernel"]]
    with knobs.runtime.scope():
        for told, kept in ((1, 0), (1, 1)):
            both_ways(qkv, attention_qkvpacked)
            assert [(len(kernel.first), len(kernel.later)) for kernel in launched] == [(told, kept)] * 2
        if replaced:
            setattr(knobs.runtime, hook, print)
        else:
            chain = knobs.HookChain()
            chain.add(print)
            setattr(knobs.runtime, hook, chain)
        both_ways(qkv, attention_qkvpacked)
        assert [(len(kernel.first), len(kernel.later)) for kernel in launched] == [(2, 1)] * 2
    both_ways(qkv, attention_qkvpacked)
    assert [(len(kernel.first), len(kernel.later)) for kernel in launched] == [(2, 2)] * 2


@pytest.mark.parametrize("call", [attention_qkvpacked, lambda x, **kw: attention(*x.unbind(2), **kw)])
def test_the_log_sum_exp_is_computed_only_where_it_is_needed(kernels, call):
    qkv = torch.zeros(1, 17, 3, 2, 64, dtype=torch.bfloat16)
    forward = kernels["attention_forward_kernel"]
    place = forward.arg_names.index("lse_ptr")
    needed = [lambda: call(qkv, return_lse=True), lambda: call(qkv.requires_grad_())]
    for ask in (lambda: call(qkv.detach()), *needed):
        for _ in range(2):
            ask()
        assert (forward.first[-1][1][place] is None) == (ask not in needed)
        assert (forward.later[-1][1][place] is None) == (ask not in needed)


def test_ever_new_lengths_do_not_fill_the_memory(kernels, monkeypatch):
    monkeypatch.setattr(plans, "MOST_PLANS", 3)
    for tokens in range(1, 9):
        attention(*torch.zeros(1, tokens, 3, 2, 64).unbind(2))
    assert len(launch._plans) <= 3


def test_plans_keep_the_programs_that_they_launch(kernels):
    """Triton unloads a program when nobody has the object that it gave for it."""
    both_ways(torch.zeros(1, 300, 3, 2, 64, dtype=torch.bfloat16, requires_grad=True), attention_qkvpacked)
    programs = [program for kernel in kernels.values() for program in kernel.programs]
    assert len(programs) == 3
    assert all(program() is not None for program in programs)
    launch._plans.clear()
    assert all(program() is None for program in programs)


def test_plans_keep_no_memory_of_a_gpu(kernels):
    """Under CUDA graph trees, torch.compile(mode="reduce-overhead"), what stays of a graph's pool is an error."""
    qkv = torch.zeros(2, 17, 3, 2, 64, requires_grad=True)
    both_ways(qkv, attention_qkvpacked)
    kept = [value for known in launch._plans.values() for plan in known for value in vars(plan).values()]
    kept += [each for value in kept if isinstance(value, tuple | list) for each in value]
    tensors = [value for value in kept if isinstance(value, torch.Tensor)]
    assert [x.shape for x in tensors] == [(2, 17, 2, 64), (2, 2, 17), qkv.shape]
    assert all(x.untyped_storage().nbytes() == 0 for x in tensors)
    _, lse = attention_qkvpacked(qkv, return_lse=True)
    assert (lse.shape, lse.dtype) == ((2, 2, 17), torch.float32)
    assert lse.is_contiguous()


# Torch scripts its decompositions when forward mode is first used.
@pytest.mark.filterwarnings("ignore:`torch.jit.script`")
def test_a_call_that_autograd_need_not_know_of_still_refuses_forward_mode(kernels):
    from torch.autograd import forward_ad

    q, k, v = torch.zeros(1, 17, 3, 2, 64).unbind(2)
    words = r"forward-mode differentiation \(jvp\) .* was asked for; it has gradients alone: use attention_reference"
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match=words):
        attention(forward_ad.make_dual(q, torch.ones_like(q)), k, v)
    with pytest.raises(NotImplementedError, match=words):
        # Where torch.func is at work an operator is called, which would leave the tangent out.
        torch.func.jvp(lambda x: attention_qkvpacked(torch.stack([x, k, v], 2)), (q,), (torch.ones_like(q),))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda q, k, v: (q, k.to("meta"), v), "devices disagree: q cpu, k meta, v cpu"),
        (lambda q, k, v: (q, k[:, :, :1], v), "shapes disagree"),
        (lambda q, k, v: (q, k.half(), v), "dtypes q bfloat16, k float16, v bfloat16"),
        (lambda q, k, v: (q, k, v.mT.contiguous().mT), "the last dimension of v has stride 2"),
    ],
)
def test_a_wrong_call_is_refused_after_right_ones_too(kernels, change, words):
    right = torch.zeros(1, 17, 3, 2, 64, dtype=torch.bfloat16).unbind(2)
    for _ in range(2):
        attention(*right)
        with pytest.raises(ValueError, match=words):
            attention(*change(*right))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda qkv: [qkv], "qkv is a list; attention takes tensors of shape"),
        (lambda qkv: qkv[0], r"qkv has shape \(17, 3, 2, 64\); attention takes \(B, N, 3, H, D\): split the channels"),
        (lambda qkv: qkv[:, :, :2], r"qkv has shape \(2, 17, 2, 2, 64\); attention takes \(B, N, 3, H, D\)"),
        (lambda qkv: qkv[:, :0], "a size is 0"),
        (lambda qkv: qkv[..., :36], "head dim 36 "),
        (lambda qkv: qkv.double(), "dtypes q float64"),
        (lambda qkv: qkv.mT.contiguous().mT, "the last dimension of q has stride 2"),
    ],
)
def test_a_wrong_packed_call_is_refused_after_right_ones_too(kernels, change, words):
    right = torch.zeros(2, 17, 3, 2, 64, dtype=torch.bfloat16)
    for _ in range(2):
        attention_qkvpacked(right)
        with pytest.raises((TypeError, ValueError), match=words):
            attention_qkvpacked(change(right))
    assert len(kernels["attention_forward_kernel"].later) == 1


def test_a_driver_is_asked_for_the_same_by_every_call():
    """With Triton's own launcher and programs, as on a GPU: only the driver below them is a stand-in."""
    if sys.platform != "linux" or find_spec("triton.backends.nvidia") is None:
        pytest.skip("needs Linux and Triton's launcher for NVIDIA GPUs")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if shutil.which(os.environ.get("CC", "gcc")) is None or not header.exists():
        pytest.skip("needs a C compiler and Python.h, as Triton does on a GPU")
    script = Path(__file__).with_name("launches_again.py")
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr[-4000:]
    kernels = [name for name in vars(planning) if name.endswith("_kernel")]
    assert len(kernels) == 7
    assert all(f"'{name}': " in done.stdout for name in kernels)
