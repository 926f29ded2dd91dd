"""What is compiled ahead of a benchmark is what it then runs. No GPU."""

import os

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from benchmarks import kernels, peers, warm
from benchmarks.ahead_of_time import recorded
from benchmarks.calls import draw_inputs, make_call
from benchmarks.shapes import DIRECTIONS, Shape

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="needs TRITON_INTERPRET unset: the interpreter does not compile"
)


class NoGPU:
    """What Triton asks of a driver before it compiles."""

    launcher_cls = None

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 99  # of which there are no programs from another test

    def get_current_stream(self, device: int) -> int:
        return 0


def test_what_the_benchmark_launches_finds_what_was_compiled_ahead(monkeypatch, tmp_path):
    monkeypatch.setattr(driver, "_active", NoGPU())
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    shape = Shape(1, 50, 12, 64)
    ahead = {warm.compile_job(job) for job in warm.programs([shape], "bf16", 90, [()])}
    sets = draw_inputs(shape, torch.bfloat16, torch.device("cpu"), cache_bytes=0, seed=0)
    with recorded((9, 0)) as launches:
        for direction in DIRECTIONS:
            make_call(peers.make_peer(peers.OURS, shape), direction, sets)(0)
    found = {launch.kernel.run(grid=None, warmup=True, **launch.arguments).hash for launch in launches}
    assert found == ahead
    assert (
        len(list(tmp_path.iterdir())) == len(ahead) == 4
    )  # forward with and without lse, backward with and without packed gradients


def test_the_kernels_that_stand_in_are_compiled_too_and_each_program_once():
    jobs = list(warm.programs([Shape(batch, 197, 12, 64) for batch in (128, 8)], "bf16", 90, ((), kernels.WHOLE)))
    assert len(set(jobs)) == len(jobs)
    assert {names for _, names, _, _ in jobs} == {(), kernels.WHOLE}
    # Few heads have the kernels of many that do without theirs: there the forward for tiles is not compiled again.
    assert [call.batch for call, names, _, _ in jobs if not names] == [128, 128, 128, 128]
