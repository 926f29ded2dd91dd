"""Calls of attention again and again on a fake GPU, each held against what Triton makes of the same call when asked.

A script for a process of its own. It prints how many programs each kernel had.
"""

import warnings
from collections import Counter
from functools import partial

import torch
from fake_gpu import FakeGpu, check
from triton.runtime.jit import JITFunction
from vitzoo_kernels import attention, attention_qkvpacked, attention_varlen, dropout_mask
from vitzoo_kernels.dense import launch, planning, plans

GPU = FakeGpu()
BF16 = torch.bfloat16
# Here every call has memory of its own; other tensors lie at the same addresses again.
OWN_MEMORY = {"dout_ptr", "dlse_ptr", "partial_ptr", "mask_ptr"}


class Memory:
    """Gives the same tensors when they are asked for in the same order again."""

    def __init__(self):
        self.given, self.place = [], 0

    def __call__(self, like):
        if self.place == len(self.given):
            self.given.append(torch.empty_like(like, memory_format=torch.contiguous_format))
        self.place += 1
        return self.given[self.place - 1]


class Asked:
    """Counts how often Triton is asked to look at arguments."""

    times = 0

    def __init__(self):
        ask = JITFunction.run

        def counted(*args, **kwargs):
            self.times += 1
            return ask(*args, **kwargs)

        JITFunction.run = counted


def observed(call, memory, known):
    """Return what a call launches that has such plans."""
    launch.empty_like, launch._plans, memory.place = memory, known, 0
    GPU.launches.clear()
    call()
    for one in GPU.launches:
        check(one, GPU.programs[one.function])
    return list(GPU.launches)


def comparable(launches):
    """Return launches with what is left of an address by 16 in its place, where every call has memory of its own."""
    return [
        (*one[:-1], {name: x[0] & 15 if name in OWN_MEMORY else x for name, x in one.parameters.items()})
        for one in launches
    ]


def gradients(call, *inputs, lse=False, dout=None, **options):
    """Return a call of the forward and the backward."""

    def run():
        outputs = call(*inputs, return_lse=True, **options)[: 1 + lse]
        leaves = [*inputs, *(x for x in options.values() if isinstance(x, torch.Tensor) and x.requires_grad)]
        torch.autograd.grad(outputs, leaves, [torch.zeros_like(x) if dout is None else dout for x in outputs])

    return run


def zeros(*shape, dtype=BF16, shift=0):
    """Return a tensor whose memory begins `shift` elements after an aligned address."""
    return torch.zeros(torch.Size(shape).numel() + shift, dtype=dtype)[shift:].view(shape).requires_grad_()


def kept_elsewhere(call, moves):
    """Return a call whose tensors of `moves` dimensions come back to the backward 8 bytes after a multiple of 16."""
    moved = {}

    def back(x):
        shift = 8 // x.itemsize
        return moved.setdefault(x.data_ptr(), zeros(*x.shape, dtype=x.dtype, shift=shift)) if x.ndim in moves else x

    def run():
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x, back):
            call()

    return run


def calls():
    """Yield calls; each kernel has plans of several programs, and programs have several plans."""
    packed, three = partial(gradients, attention_qkvpacked), partial(gradients, attention)
    # Programs that batches share, heads that have a program each, and too many keys for the whole backward.
    for batch, tokens in ((2, 50), (16, 50), (88, 100), (2, 300)):
        yield packed(zeros(batch, tokens, 3, 3, 32))
    # Values for which Triton has programs of their own: 1, multiples of 16, and addresses that are none.
    for batch, tokens, heads in ((1, 1, 1), (16, 16, 16)):
        yield packed(zeros(batch, tokens, 3, heads, 32))
    for shift in (1, 8, 3, 0):
        yield packed(zeros(2, 50, 3, 3, 32, shift=shift))
    yield packed(zeros(2, 50, 3 * 3 * 32 + 8)[..., :-8].unflatten(-1, (3, 3, 32)))
    yield packed(zeros(3, 2, 50, 3, 32).permute(1, 2, 0, 3, 4))
    # lse, out, and both.
    for moves in ({3}, {4}, {3, 4}):
        yield kept_elsewhere(packed(zeros(2, 50, 3, 3, 32)), moves)
    for gap in (0, 8, 16, 1):
        yield three(*[zeros(2, 50, 3 * 32 + gap)[..., : 3 * 32].unflatten(-1, (3, 32)) for _ in range(3)])
    yield three(*[zeros(2, 3, 50, 32).transpose(1, 2) for _ in range(3)])
    yield three(*[zeros(2, 50, 3, 72) for _ in range(3)], lse=True, scale=-0.3)
    yield three(*[zeros(2, 50, 3, 32) for _ in range(3)], dout=torch.zeros(2, 50, 3, 33, dtype=BF16)[..., 1:])
    q, k, v = zeros(2, 40, 3, 32), zeros(2, 50, 3, 32), zeros(2, 50, 3, 32)
    mask, seed = torch.ones(2, 50, dtype=torch.bool), torch.tensor([3, 4])
    yield three(q, k, v, key_mask=mask)
    yield three(q, k, v, bias=zeros(3, 40, 50))
    yield three(q, k, v, bias=zeros(3, 50, 40).mT, key_mask=mask, dropout_p=0.1, dropout_seed=seed)
    starts = torch.tensor([0, 20, 90], dtype=torch.int32)
    ragged = {"cu_seqlens_q": starts, "cu_seqlens_k": starts, "max_seqlen_q": 70, "max_seqlen_k": 70}
    yield gradients(attention_varlen, *[zeros(90, 3, 32) for _ in range(3)], **ragged)
    # Without gradients no lse is written.
    for batch, tokens in ((2, 50), (88, 100)):
        yield partial(attention_qkvpacked, zeros(batch, tokens, 3, 3, 32).detach())
    yield lambda: dropout_mask(seed, 0.1, (2, 3, 40, 50))


planning._check_device = lambda q: None
# Torch asks its own CUDA for a GPU when it first computes gradients.
warnings.filterwarnings("ignore", "CUDA initialization")
known, asked = plans.Plans(), Asked()
for call in calls():
    # For the first time, once more, and without any earlier plan.
    memory = Memory()
    first = observed(call, memory, known)
    asked.times = 0
    later = observed(call, memory, known)
    # The mask of the dropout is planned anew each time.
    assert asked.times == ("dropout_mask" in GPU.programs[later[0].function].name), "a plan asked Triton again"
    asked.times = 0
    fresh = observed(call, memory, plans.Plans())
    assert asked.times == len(fresh) > 0
    assert comparable(first) == comparable(later) == comparable(fresh)
print(Counter(program.name for program in GPU.programs.values()))
