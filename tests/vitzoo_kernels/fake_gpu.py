"""A GPU of capability 9.0 that runs nothing and writes down what Triton's own launcher asks of CUDA's driver.

The driver's library is a stand-in, and tensors lie in the CPU's memory: all between the call of a kernel and the driver
is as on a GPU. For a process of its own, which has not asked for a GPU yet.
"""

import ctypes
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

# What Triton's launcher and its loader ask for; the other functions do nothing. A function has its module's handle.
LIBRARY = """
typedef void *any;
void (*on_launch)(any config, any function, any parameters);
static long modules;
#define DONE(name) int name() { return 0; }
#define GIVES(name, type, what) int name(type *value, long what_of, any third) { return *value = (type)(what), 0; }
GIVES(cuDriverGetVersion, int, 13000)
GIVES(cuDeviceGet, int, 0)
GIVES(cuDeviceGetCount, int, 1)
GIVES(cuCtxGetDevice, int, 0)
GIVES(cuCtxGetCurrent, any, 1)
GIVES(cuCtxGetLimit, long, 0)
GIVES(cuDevicePrimaryCtxRetain, any, 1)
GIVES(cuModuleLoadData, any, ++modules)
GIVES(cuModuleGetFunction, any, what_of)
GIVES(cuFuncGetAttribute, int, 1024)
GIVES(cuPointerGetAttribute, any, third)
/* The capability, and more of anything else than is needed: bytes of shared memory, registers. */
GIVES(cuDeviceGetAttribute, int, what_of == 75 ? 9 : what_of == 76 ? 0 : 227 * 1024)
int cuLaunchKernelEx(any config, any function, any parameters) { return on_launch(config, function, parameters), 0; }
"""
# Bytes of a parameter by Triton's name of its type; a pointer has 8.
BYTES = {"i1": 1, "i8": 1, "i32": 4, "i64": 8, "fp32": 4}


class Launch(NamedTuple):
    """What the driver was asked for: the program's handle, CUlaunchConfig's first numbers, the bytes of parameters."""

    function: int
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared: int
    parameters: dict[str, bytes]


class FakeGpu:
    """Becomes Triton's GPU."""

    def __init__(self):
        self.launches, self.programs = [], {}
        self._folder = tempfile.TemporaryDirectory()
        # Whoever opens libcuda.so.1 later gets the library of that name which is there already.
        library = Path(self._folder.name) / "libcuda.so.1"
        source = LIBRARY + "".join(f"DONE({name})\n" for name in functions_of_triton() if name not in LIBRARY)
        command = [os.environ.get("CC", "gcc"), "-shared", "-fPIC", "-w", "-x", "c", "-", "-o", library]
        subprocess.run([*command, f"-Wl,-soname,{library.name}"], input=source, text=True, check=True)
        loaded = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        self._callback = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(self._record)
        ctypes.c_void_p.in_dll(loaded, "on_launch").value = ctypes.cast(self._callback, ctypes.c_void_p).value
        os.environ["TRITON_LIBCUDA_PATH"] = self._folder.name
        self._become_active()

    def _become_active(self):
        import triton
        from triton.backends.nvidia.driver import CudaDriver, CudaLauncher, CudaUtils
        from triton.compiler import CompiledKernel

        class Driver(CudaDriver):
            def __init__(self):
                self.utils, self.launcher_cls = CudaUtils(), CudaLauncher
                self.get_current_device = self.get_current_stream = lambda device=0: 0
                self.get_device_capability = lambda device: (9, 0)

        with triton.knobs.cache.scope():
            # Linked against the stand-in: not for the cache that real launches use.
            triton.knobs.cache.dir = self._folder.name
            triton.runtime.driver.set_active(Driver())
        load = CompiledKernel._init_handles

        def remember(kernel):
            load(kernel)
            self.programs[kernel.function] = kernel

        CompiledKernel._init_handles = remember

    def _record(self, config, function, parameters):
        *sizes, shared = (ctypes.c_uint * 7).from_address(config)
        types = parameters_of(self.programs[function])
        places = (ctypes.c_void_p * len(types)).from_address(parameters)
        values = {
            name: ctypes.string_at(at, bytes_of(kind)) for at, (name, kind) in zip(places, types.items(), strict=True)
        }
        self.launches.append(Launch(function, tuple(sizes[:3]), tuple(sizes[3:]), shared, values))


def functions_of_triton():
    """Return the names of the driver's functions that Triton's launcher is linked to, in any version."""
    import triton

    files = (Path(triton.__file__).parent / "backends/nvidia").glob("driver.*")
    return sorted({name for file in files for name in re.findall(r"\b(cu[A-Z]\w*)\(", file.read_text())})


def parameters_of(program):
    """Return {name: type} of the parameters that a kernel's constants leave, in order."""
    signature = program.src.signature
    kept = {name: signature[name] for name in program.src.fn.arg_names if signature[name] != "constexpr"}
    # Triton's own, which these kernels do not use.
    return {**kept, "global_scratch": "*i8", "profile_scratch": "*i8"}


def bytes_of(kind):
    """Return how many bytes a parameter has."""
    return 8 if kind.startswith("*") else BYTES[kind]


def check(launch, program):
    """Assert that a launch is what its program was compiled for."""
    ptx, types = program.asm["ptx"], parameters_of(program)
    declared = [int(bits) // 8 for bits in re.findall(r"^\s*\.param \.[a-z](\d+)", ptx, re.MULTILINE)]
    assert declared == [bytes_of(kind) for kind in types.values()], program.name
    threads = program.metadata.num_warps * 32
    assert launch.block == (threads, 1, 1)
    assert re.search(rf"\.reqntid {threads}\b", ptx)
    assert launch.shared == program.metadata.shared
    for (place, *_), attributes in program.src.attrs.items():
        if ["tt.divisibility", 16] in attributes:
            name = program.src.fn.arg_names[place]
            value = int.from_bytes(launch.parameters[name], "little", signed=True)
            assert value % 16 == 0, f"{program.name} was compiled for a {name} that 16 divides, and got {value}"
