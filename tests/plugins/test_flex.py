"""FlexAttention under the checks of every backend: the quick ones here, all of them on a GPU."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from vitzoo_flex.manifest import CPU

import vitzoo
import vitzoo.testing
from vitzoo.errors import BackendUnsupported
from vitzoo.registry import Registry

pytestmark = pytest.mark.skipif(bool(CPU.never_runs()), reason=" ".join(map(str, CPU.never_runs())))

test_flex = vitzoo.testing.suite("flex", only=["package/*", "attention/cpu:caps", "attention/cpu:refuses_*"])
test_on_a_gpu = pytest.mark.gpu(vitzoo.testing.suite("flex", only=["attention/cuda:*"]))

SMALL: dict[str, Any] = {"depth": 2, "img_size": 32, "patch_size": 8, "embed_dim": 64, "num_heads": 2, "num_classes": 5}


# As C++ each combination of dtype, head dim and options takes five seconds and more; `vitzoo check flex` does them all.
WITHOUT_CPP = ["bias_and_key_mask", "bias_queries", "one_visible_key", "scale"]


def test_scores_are_changed_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same graphs, run operator by operator instead of as compiled C++."""
    from vitzoo_flex import attend

    graphs = torch.compile(attend._attend, fullgraph=True, backend="eager", recompile_limit=attend.GRAPHS)
    monkeypatch.setattr(attend, "compiled", lambda dynamic: graphs)
    checks = [f"attention/cpu:{check}" for check in WITHOUT_CPP]
    found = {outcome.id: outcome for outcome in vitzoo.testing.outcomes("flex", only=checks)}
    assert len(found) == 4
    assert {id: outcome.detail for id, outcome in found.items() if outcome.state != "passed"} == {}


def test_what_the_gpu_can_do_is_refused_on_a_cpu_with_the_reasons() -> None:
    model, image = vitzoo.create("vit_tiny", attn="flex/cuda", **SMALL), torch.randn(1, 3, 32, 32)
    with pytest.raises(BackendUnsupported, match=r"flex/cuda: device=cpu \(supported: cuda\)"):
        model(image)
    vitzoo.set_attention(model, "flex/cpu")
    with pytest.raises(BackendUnsupported) as refused:
        model(image)
    assert "flex/cpu: gradients of q, k, v (supported: inference only)" in str(refused.value)
    assert "call the model under torch.no_grad()" in str(refused.value)
    with pytest.raises(BackendUnsupported, match="flex/cuda: head_dim=48"):
        vitzoo.create("vit_tiny", attn="flex/cuda", **{**SMALL, "embed_dim": 96})


def test_nothing_is_declared_on_a_cpu_that_torch_does_not_do() -> None:
    """What the caps leave out is what torch raises on: when it no longer does, the caps can grow."""
    from vitzoo_flex.attend import attend

    q = torch.randn(1, 5, 2, 16)
    for words, call in (
        ("does not support backward on CPU", lambda: attend(q.requires_grad_(), q, q)),
        ("return_lse. is not supported yet", lambda: attend(q.detach(), q.detach(), q.detach(), return_lse=True)),
        ("are supported in FlexAttention for CPU", lambda: attend(*[q.detach().double()] * 3)),
    ):
        with pytest.raises(Exception, match=words):
            call()


def test_importing_it_compiles_nothing() -> None:
    code = "import vitzoo_flex.attend as f, sys; print('torch._inductor.compile_fx' in sys.modules, f.compiled.cache_info().misses)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "0"]


@torch.no_grad()
def test_it_runs_the_bias_of_another_plugin_and_a_second_call_compiles_nothing_anew() -> None:
    torch.manual_seed(0)
    model = vitzoo.create("vit_tiny", block=("tome/pre_norm", {"r": 3}), **SMALL).eval()
    image = torch.randn(2, 3, 32, 32)
    expected = model(image)
    vitzoo.set_attention(model, ("flex/cuda", "flex/cpu"))
    torch.testing.assert_close(model(image), expected)
    before = counters["stats"]["unique_graphs"]
    assert "flex/cpu ran" in str(vitzoo.explain_attention(model, image))
    assert counters["stats"]["unique_graphs"] == before > 0


def test_an_older_torch_is_refused_at_create(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitzoo.attention.caps.installed_version", lambda package: "2.14.1")
    with pytest.raises(BackendUnsupported, match=r"torch 2.14.1 is installed \(supported: torch >= 2.15\)"):
        vitzoo.create("vit_tiny", attn="flex/cpu", **SMALL)
