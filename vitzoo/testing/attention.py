"""What an attention backend is checked for: every declared yes by its numbers, every declared no by its refusal."""

from __future__ import annotations

from functools import partial

from vitzoo.attention.caps import AttentionCaps
from vitzoo.plugin import get_entry
from vitzoo.registry import Entry
from vitzoo.testing import backend_contract as contract
from vitzoo.testing import backend_dropout as dropout
from vitzoo.testing import backend_numbers as numbers
from vitzoo.testing import backend_refusals as refusals
from vitzoo.testing import backend_torch as torch_checks
from vitzoo.testing.backend import Backend, DeviceCheck, is_here, on_devices
from vitzoo.testing.check import Check, Unavailable


def checks(entry: Entry) -> list[Check]:
    """Return the checks of a backend; those that say most about a mistake come first."""
    caps: AttentionCaps = entry.meta.get("caps", AttentionCaps())
    bare = entry.name.partition("/")[2] or entry.name
    declared = Check(f"attention/{bare}:caps", partial(refusals.check_caps, entry))
    if not isinstance(caps, AttentionCaps) or not caps.dtypes or not caps.devices or caps.head_dims == ():
        return [declared]
    on_device: dict[str, DeviceCheck] = {
        "output": contract.check_output,
        "writes_all": contract.check_writes_all,
        "inputs_unchanged": contract.check_inputs_unchanged,
        "scale": numbers.check_scale,
        "strided": numbers.check_strided,
        "equal_rows": numbers.check_equal_rows,
        "large_logits": numbers.check_large_logits,
    }
    if caps.bias:
        on_device |= {f"bias_{name}": partial(numbers.check_bias, shape=name) for name in numbers.BIAS_SHAPES}
        on_device["bias_hides"] = numbers.check_bias_hides
    if caps.key_mask:
        on_device |= {"key_mask": numbers.check_key_mask, "one_visible_key": numbers.check_one_visible_key}
    if caps.key_mask and caps.bias:
        on_device["bias_and_key_mask"] = numbers.check_bias_and_key_mask
    if caps.cross:
        on_device["cross"] = numbers.check_cross
    if caps.dropout:
        on_device |= {"dropout": dropout.check_dropout, "dropout_off": dropout.check_dropout_off}
        if caps.backward:
            on_device["dropout_gradients"] = dropout.check_dropout_gradients
    if caps.varlen:
        on_device["varlen"] = numbers.check_varlen
    for dtype in caps.dtypes:
        for length in numbers.LENGTHS:
            on_device[f"numbers_{dtype}_n{length}"] = partial(numbers.check_numbers, dtype=dtype, length=length)
        on_device[f"head_dims_{dtype}"] = partial(numbers.check_head_dims, dtype=dtype)
    if caps.deterministic:
        on_device["repeatable"] = contract.check_repeatable
    on_device |= {
        "packed": contract.check_packed,
        "autocast": torch_checks.check_autocast,
        "compiles": torch_checks.check_compiles,
        "opcheck": torch_checks.check_opcheck,
        "in_a_model": torch_checks.check_in_a_model,
    }
    refused = {f"refuses_{name}": function for name, function in refusals.declared_noes(Backend(entry)).items()}
    return [
        declared,
        *on_devices(entry, on_device),
        *(Check(f"attention/{bare}:{name}", function) for name, function in refused.items()),
        *(
            Check(f"attention/{bare}:on_{device}", partial(_check_device, Backend(entry), device))
            for device in caps.devices
        ),
    ]


def check_attention(name: str) -> None:
    """Check an attention backend and raise on the first failure.

    Args:
        name: a registered backend: 'acme/flash4'.

    Raises:
        AssertionError: what is wrong; a note names the check.
        UnknownNameError: no backend has that name.
        Unavailable: not one check of what it computes can run on this machine.
    """
    entry = get_entry("attention", name)
    ran, missing = 0, ""
    for check in checks(entry):
        try:
            check()
        except Unavailable as lacks:
            missing = missing or str(lacks)
        except Exception as error:
            error.add_note(f"in the check {check.id}")
            raise
        else:
            ran += ":refuses" not in check.id and not check.id.endswith(":caps")
    if not ran:
        raise Unavailable(f"nothing that {name!r} computes can be checked here: {missing}")


def _check_device(backend: Backend, device: str) -> None:
    """Say what was not checked; on meta, which holds no numbers, check the shapes."""
    absent = [str(reason) for reason in backend.caps.never_runs()]
    if absent:
        raise Unavailable("; ".join(absent))
    if device == "meta":
        contract.check_output(backend, device)
        return
    missing = is_here(device, backend.caps)
    if missing:
        raise Unavailable(f"{missing}: nothing was checked there")
