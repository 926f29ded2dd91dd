"""The numeric budget: how wrong a result may be, derived from its dtype and its case, never typed by hand.

A result is held against the truth, computed in float64 from the same inputs. It may be at most twice as wrong as an
independent low-precision computation of the same thing, which keeps every step in the dtype under test and orders the
steps differently, plus one rounding of the truth to the result's dtype. Both the worst element and the mean count.
The rule of twice the low-precision error is that of FlashAttention's tests (arXiv 2205.14135).
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vitzoo.testing.yardsticks import exact_attention, low_precision_attention

AttentionFunction = Callable[..., Any]
# How often the low-precision computation is repeated, each time summing in another order. Few elements can all be right
# by luck, and those of one query share its errors: float32 has ROWS queries in all orders together, within these
# bounds. In 16 bits each tensor is rounded, and the order of a sum decides little.
FEWEST_ORDERS, MOST_ORDERS, ROWS = 8, 64, 2048


def assert_within_budget(
    actual: Tensor,
    truth: Tensor,
    low_precision: Sequence[Tensor],
    *,
    name: str = "result",
    dtype: torch.dtype | None = None,
    vanishes: bool = False,
) -> None:
    """Assert that `actual` is as close to `truth` as its dtype lets an honest computation be.

    Element by element, |actual - truth| may exceed half a unit in the last place of the truth (the band: one rounding)
    by at most twice the largest error in `low_precision`; the mean error may exceed the mean band by at most twice the
    largest mean error in `low_precision`. Where the truth is infinite, `actual` must be the same infinity.

    Args:
        actual: the result under test, any shape.
        truth: the same result computed in float64 from the same inputs.
        low_precision: the same result computed step by step in the dtype of the inputs, once or, better, several times
            with sums in different orders.
        name: what the result is called in the message.
        dtype: the dtype that `actual` must have; that of `low_precision` when None.
        vanishes: the result is zero but for roundings, those of the truth too, so that zeros may pass.

    Raises:
        AssertionError: `actual` has another shape or dtype, is not finite where the truth is, or is over the budget.
            The message holds all numbers.
        ValueError: the case cannot judge: the truth is no float64 or holds NaN, a low-precision result is not finite
            where the truth is, or the budget is so wide that zeros would pass for a truth that is not zero.
    """
    if truth.dtype != torch.float64:
        raise ValueError(f"{name}: the truth is {truth.dtype}; compute it in torch.float64")
    if any(low.shape != truth.shape for low in low_precision):
        shapes = [tuple(low.shape) for low in low_precision]
        raise ValueError(f"{name}: the truth is {tuple(truth.shape)}, low_precision {shapes}")
    if truth.isnan().any():
        raise ValueError(f"{name}: the truth holds NaN; compare the places of NaN directly instead")
    finite = truth.isfinite()
    if not all(low[finite].isfinite().all() for low in low_precision):
        raise ValueError(f"{name}: low_precision overflows {low_precision[0].dtype}; choose smaller inputs")

    expected = low_precision[0].dtype if dtype is None else dtype
    assert actual.shape == truth.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(truth.shape)}"
    assert actual.dtype == expected, f"{name}: dtype {actual.dtype}, expected {expected}"
    wrong = int(actual[finite].isfinite().logical_not().sum())
    assert wrong == 0, f"{name}: {wrong} of {int(finite.sum())} elements are not finite where the truth is"
    wrong = int((actual[~finite].double() != truth[~finite]).sum())
    assert wrong == 0, f"{name}: {wrong} of {int((~finite).sum())} elements are not the infinity that the truth is"
    if not finite.any():
        return

    exact = truth[finite]
    error = (actual[finite].double() - exact).abs()
    low_errors = torch.stack([(low[finite].double() - exact).abs() for low in low_precision])
    info = torch.finfo(expected)
    # Half a unit in the last place; below the smallest normal number, those units stop shrinking.
    _, exponent = exact.abs().clamp_min(info.smallest_normal).frexp()
    band = torch.ldexp(torch.full_like(exact, info.eps / 2), exponent - 1)
    # Largest excess over the band, and mean; each as (found, allowed).
    limits = {"max": 2 * float(low_errors.max()), "mean": 2 * float(low_errors.mean(1).max()) + float(band.mean())}
    found = {"max": float((error - band).max()), "mean": float(error.mean())}
    of_zeros = {"max": float((exact.abs() - band).max()), "mean": float(exact.abs().mean())}

    if exact.any() and not vanishes and all(of_zeros[kind] <= limits[kind] for kind in limits):
        raise ValueError(
            f"{name}: zeros would pass, with truth up to {float(exact.abs().max()):.3e} and low_precision wrong by up "
            f"to {float(low_errors.max()):.3e}; choose inputs that {low_precision[0].dtype} can tell from zeros"
        )
    failed = [kind for kind in limits if not found[kind] <= limits[kind]]
    worst = tuple(int(i) for i in finite.nonzero()[(error - band).argmax()])
    assert not failed, (
        f"{name} {tuple(truth.shape)} {expected}: over the budget in {' and '.join(failed)}\n"
        f"  max:  {float(error.max()):.3e}, beyond the band {found['max']:.3e}; allowed {limits['max']:.3e} "
        f"(low precision {float(low_errors.max()):.3e})\n"
        f"  mean: {found['mean']:.3e}; allowed {limits['mean']:.3e} "
        f"(low precision {float(low_errors.mean(1).max()):.3e}, band {float(band.mean()):.3e})\n"
        f"  worst at {worst}: got {float(actual[worst]):.9g}, truth {float(truth[worst]):.9g}"
    )


def orders_for(rows: int, dtype: torch.dtype) -> int:
    """Return in how many orders `low_precision_attention` sums, to judge so many rows: images * heads * queries."""
    if dtype.itemsize == 2:
        return FEWEST_ORDERS
    return min(max(-(-ROWS // max(rows, 1)), FEWEST_ORDERS), MOST_ORDERS)


def check_attention_numbers(
    attention: AttentionFunction,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    dropout: tuple[Tensor, float] | None = None,
    with_lse: bool = True,
    with_gradients: bool = True,
    vanishing: Collection[str] = (),
    unjudged: Collection[str] = (),
    seed: int = 0,
) -> None:
    """Assert that an attention function's output, lse and every gradient are within the budget.

    Args:
        attention: called with q, k and v as they lie in memory and those keyword arguments below that are not None;
            `with_lse` adds `return_lse=True`, and then it returns (out, lse).
        q: queries, (B, N_q, H, D), in the dtype under test.
        k: keys, (B, N_k, H, D).
        v: values, (B, N_k, H, D).
        bias: added to the scaled scores, broadcast to (B, H, N_q, N_k); its gradient is checked if it requires one.
        key_mask: bool, (B, N_k), True where attention may look.
        scale: factor on the scores.
        dropout: which weights the function keeps when it is called like this, bool, (B, H, N_q, N_k), and the share
            that it drops; the function itself is not told.
        with_lse: also check lse, which must be float32 (float64 for float64 inputs), and the gradients that flow
            through it.
        with_gradients: False checks the outputs alone, of inputs that need no gradient.
        vanishing: those of 'dq', 'dk', 'dv' and 'dbias' that are zero but for roundings in this case.
        unjudged: names of results that are left out: the low-precision computation of them is exact in this case, so it
            tells nothing of the roundings that an honest one has.
        seed: of the random gradients of out and lse.

    Raises:
        AssertionError: a result is over the budget; the message names it and holds all numbers.
        ValueError: the case cannot judge; see `assert_within_budget`.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, num_queries, num_heads, _ = q.shape
    dout = torch.randn(q.shape, generator=generator).to(q)
    dlse = torch.randn((batch, num_heads, num_queries), generator=generator).to(q)
    if key_mask is not None:
        # An lse of -inf has no slope: its gradient is left out, as the truth's would be NaN or zero at will.
        dlse = dlse * key_mask.any(dim=1)[:, None, None]
    lse_dtype = torch.promote_types(q.dtype, torch.float32)
    fixed = {name: x for name, x in (("key_mask", key_mask), ("scale", scale)) if x is not None}

    def results(function: AttentionFunction, dtype: torch.dtype, gradient_of_lse: Tensor, **extra: Any) -> list[Tensor]:
        leaves = [x.detach().to(dtype).requires_grad_(with_gradients) for x in (q, k, v)]
        if bias is not None:
            extra["bias"] = bias.detach().to(dtype).requires_grad_(bias.requires_grad and with_gradients)
        output = function(*leaves, **fixed, **extra)
        outputs = list(output) if with_lse else [output[0] if isinstance(output, tuple) else output]
        if not with_gradients:
            return outputs
        if bias is not None and bias.requires_grad:
            leaves.append(extra["bias"])
        gradients = [dout.to(dtype), gradient_of_lse][: len(outputs)]
        found = torch.autograd.grad(outputs, leaves, gradients, allow_unused=True)
        unreached = [name for name, x in zip(("q", "k", "v", "bias"), found, strict=False) if x is None]
        assert not unreached, f"no gradient reaches {', '.join(unreached)}"
        return [x.detach() for x in (*outputs, *found)]

    actual = results(attention, q.dtype, dlse.to(lse_dtype), **({"return_lse": True} if with_lse else {}))
    truth = results(partial(exact_attention, dropout=dropout), torch.float64, dlse.double())
    low_precision = [
        results(partial(low_precision_attention, dropout=dropout, order=i), q.dtype, dlse)
        for i in range(orders_for(batch * num_heads * num_queries, q.dtype))
    ]
    names = ["out", *(["lse"] if with_lse else []), "dq", "dk", "dv", "dbias"]
    for name, a, t, *low in zip(names, actual, truth, *low_precision, strict=False):
        if name in unjudged:
            continue
        dtype = lse_dtype if name == "lse" else None
        assert_within_budget(a, t, low, name=name, dtype=dtype, vanishes=name in vanishing)
