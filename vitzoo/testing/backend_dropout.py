"""Dropout of attention weights: which are dropped, by how much the others grow, and do the gradients agree?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vitzoo.testing.backend import Backend
from vitzoo.testing.backend_numbers import first, output

RATE = 0.25
SEED = 7
# Standard deviations that a share of random draws may be off.
SIGMAS = 5


def check_dropout(backend: Backend, device: str) -> None:
    """The share that is dropped, the growth of the rest, and that every query has draws of its own."""
    q, k, identity = _identity_values(backend, device, batch=8, heads=4)
    num_keys = k.shape[1]
    torch.manual_seed(SEED)
    weights = output(backend, torch.zeros_like(q), k, identity, dropout_p=RATE)[..., :num_keys]
    dropped = weights == 0
    count, share = dropped.numel(), float(dropped.double().mean())
    assert share > 0, f"dropout_p={RATE} dropped none of {count} weights: the argument is ignored"
    off = SIGMAS * (RATE * (1 - RATE) / count) ** 0.5
    assert abs(share - RATE) < off, (
        f"dropout_p={RATE} dropped {share:.1%} of {count} weights, expected {RATE:.0%} within {off:.1%}"
    )
    kept = weights[~dropped].double()
    right, unscaled = 1 / (num_keys * (1 - RATE)), 1 / num_keys
    mean = float(kept.mean())
    assert abs(mean - right) < abs(mean - unscaled), (
        f"the weights that dropout_p={RATE} keeps must grow by 1 / (1 - p), to {right:.4f}; they are {mean:.4f}"
    )
    rows = dropped.flatten(0, 2)
    different = len({tuple(row) for row in rows.tolist()})
    assert different > len(rows) // 4, (
        f"{len(rows)} queries have only {different} different draws: every query of every head of every image "
        "needs its own"
    )
    again = output(backend, torch.zeros_like(q), k, identity, dropout_p=RATE)[..., :num_keys] == 0
    assert not torch.equal(dropped, again), "two calls drop the same weights: each must draw anew"
    torch.manual_seed(SEED)
    seeded = output(backend, torch.zeros_like(q), k, identity, dropout_p=RATE)[..., :num_keys] == 0
    assert torch.equal(dropped, seeded), (
        "after torch.manual_seed(s) a call must drop what it dropped after torch.manual_seed(s) before: gradient "
        "checkpointing runs the forward again and relies on torch's generator"
    )


def check_dropout_off(backend: Backend, device: str) -> None:
    """dropout_p=0 changes nothing."""
    q, k, v = backend.qkv(13, device=device)
    plain, zero = output(backend, q, k, v), output(backend, q, k, v, dropout_p=0.0)
    assert torch.equal(plain, zero), "dropout_p=0.0 changes the output"


def check_dropout_gradients(backend: Backend, device: str) -> None:
    """The backward drops the weights that the forward dropped."""
    q, k, identity = _identity_values(backend, device, batch=2, heads=2)
    num_keys = k.shape[1]

    def dropping(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
        torch.manual_seed(SEED)
        return backend.function(q, k, v, dropout_p=RATE, **options)

    leaves = [x.detach().requires_grad_() for x in (q, k, identity)]
    with torch.enable_grad():
        kept = first(dropping(*leaves)).detach()[..., :num_keys] != 0  # (B, N_q, H, N_k)
    values = backend.qkv(q.shape[1], num_keys, device=device, batch=2, head_dim=q.shape[-1])[2]
    backend.check_numbers(q, k, values, function=dropping, dropout=(kept.transpose(1, 2), RATE))


def _identity_values(backend: Backend, device: str, *, batch: int, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and values with which the output of a query is its row of weights."""
    num_keys = min(16, backend.head_dim)
    q, k, v = backend.qkv(num_keys, device=device, batch=batch, heads=heads)
    identity = torch.eye(num_keys, v.shape[-1]).to(v)[None, :, None, :].expand_as(v).contiguous()
    return q, k, identity
