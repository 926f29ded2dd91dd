"""What importing and calling the package does in a fresh process."""

import os
import subprocess
import sys

import pytest
import torch
import vitzoo_kernels


def run(code, **environment):
    """Run Python code in a process in which every warning is an error; return what it printed."""
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | environment
    # The second: Triton 3.6's interpreter under numpy 2.
    strict = ["-W", "error", "-W", "ignore:Conversion of an array with ndim > 0:DeprecationWarning"]
    done = subprocess.run([sys.executable, *strict, "-c", code], capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


LOADED = "import sys; print(*(name for name in ('torch', 'triton', 'numpy', 'vitzoo') if name in sys.modules))"


@pytest.mark.parametrize("module", ["vitzoo_kernels", "vitzoo_kernels.dense.supported", "vitzoo_kernels.dense.configs"])
def test_importing_loads_neither_torch_nor_triton(module):
    assert run(f"import {module}; dir({module}); {LOADED}") == ""


def test_the_reference_runs_without_triton():
    code = "import torch, vitzoo_kernels; x = torch.zeros(1, 2, 1, 16); vitzoo_kernels.attention_reference(x, x, x)"
    assert "triton" not in run(f"{code}; {LOADED}").split()


def test_the_operators_are_defined_without_triton():
    assert run(
        "import sys; sys.modules['triton'] = None; import vitzoo_kernels.dense.api, torch; print('defined')"
    ) == ("defined")


def test_the_public_names_are_listed_and_no_others_exist():
    assert set(vitzoo_kernels.__all__) <= set(dir(vitzoo_kernels))
    assert all(callable(getattr(vitzoo_kernels, name)) for name in vitzoo_kernels.__all__)
    with pytest.raises(AttributeError, match="no attribute 'atention'; it has attention, attention_qkvpacked, .*"):
        _ = vitzoo_kernels.atention


CALL = """
import torch, vitzoo_kernels
x = torch.ones(1, 3, 1, 16)
try:
    print(float(vitzoo_kernels.attention(x, x, x).sum()))
except ValueError as error:
    print(error)
"""


def test_a_tensor_on_the_cpu_needs_the_interpreter():
    assert run(CALL) == (
        "attention got tensors on cpu (supported: CUDA; the CPU under Triton's interpreter); move them to a GPU, set "
        "TRITON_INTERPRET=1 before the process starts, or use attention_reference"
    )
    assert run(CALL, TRITON_INTERPRET="1") == "48.0"


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        (
            "import triton; triton.__version__ = '3.5.1'",
            "ImportError: triton 3.5.1 is installed (supported: 3.6 and above); "
            'install a newer one with pip install -U "triton>=3.6"',
        ),
        ("import sys; sys.modules['triton'] = None", "ModuleNotFoundError: import of triton halted"),
    ],
    ids=["old", "missing"],
)
def test_triton_too_old_or_missing_is_said(patch, words):
    code = f"""
{patch}
import torch, vitzoo_kernels
x = torch.ones(1, 3, 1, 16)
try:
    vitzoo_kernels.attention(x, x, x)
except ImportError as error:
    print(f"{{type(error).__name__}}: {{error}}")
"""
    assert run(code).startswith(words)


@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="needs TRITON_INTERPRET unset: it skips the check"
)
def test_an_old_gpu_is_refused(monkeypatch):
    from vitzoo_kernels.dense import planning

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")

    class OnGPU:
        device, dtype = torch.device("cuda", 0), torch.float16

    words = r"Tesla T4 has compute capability 7.5 \(supported: 8.0 and above\); use attention_reference there"
    with pytest.raises(ValueError, match=words):
        planning._check_device(OnGPU())
