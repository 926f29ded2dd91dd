"""vitzoo's own manifest: it registers through the same door as a plugin, and like a plugin's it imports no torch."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib import import_module

from vitzoo_kernels.dense import supported

from vitzoo.attention.caps import AttentionCaps
from vitzoo.plugin import API_VERSION, Registrar
from vitzoo.variants import FAMILIES

ANY_DEVICE = ("cpu", "cuda", "mps", "xpu", "meta")
FLOATS = ("float16", "bfloat16", "float32", "float64")

# Settings of a ViT that a format has a place for, for the conformance checks; where there are none, a plain ViT does.
TESTED_FORMATS = {
    "dinov2": {"num_classes": 0, "init_values": 0.1, "mask_token": True},
    "dinov3": {
        "num_classes": 0,
        "init_values": 0.1,
        "mask_token": True,
        "pos_embed": "none",
        "rope": "dinov3",
        "reg_tokens": 2,
        "norm": ("layernorm", {"eps": 1e-5}),
    },
    "open_clip": {"pre_norm": True, "norm": ("layernorm", {"eps": 1e-5}), "mlp": "quick_gelu"},
}


def register(registrar: Registrar) -> None:
    """Register all that vitzoo brings."""
    registrar.require_api(API_VERSION)
    _register_components(registrar)
    _register_backends(registrar)
    _register_formats(registrar)
    for family in FAMILIES:
        module = import_module(f"vitzoo.variants.{family}")
        for variant in module.VARIANTS:
            registrar.add("model", variant.name, variant, doc=f"{variant.paper} (arXiv {variant.arxiv})")
        for alias, name in module.ALIASES.items():
            registrar.alias("model", alias, name)


def _register_components(registrar: Registrar) -> None:
    for kind, name, target, doc in (
        ("patch_embed", "conv", "embed.patch:ConvPatchEmbed", "one convolution; a smaller stride overlaps patches"),
        ("patch_embed", "linear", "embed.patch:LinearPatchEmbed", "patches as vectors, one matrix product"),
        ("patch_embed", "conv_stem", "embed.stem:ConvStem", "a small CNN before the patches"),
        ("pos_embed", "learned", "embed.position:LearnedPositions", "a learned table, resampled to any grid"),
        ("pos_embed", "sincos2d", "embed.position:SinCos2dPositions", "fixed sines and cosines of row and column"),
        ("pos_embed", "none", "embed.position:NoPositions", "no positions"),
        ("rope", "none", "embed.rope:no_rope", "no rotation"),
        ("rope", "axial", "embed.rope:AxialRope", "fixed frequencies, one half of the pairs an axis"),
        ("rope", "dinov3", "embed.rope:Dinov3Rope", "positions in [-1, 1] whatever the grid"),
        ("rope", "mixed", "embed.rope:MixedRope", "learned frequencies of both axes, head by head"),
        ("block", "pre_norm", "block:PreNormBlock", "x + f(norm(x))"),
        ("block", "post_norm", "block:PostNormBlock", "norm(x + f(x))"),
        ("block", "res_post_norm", "block:ResPostNormBlock", "x + norm(f(x))"),
        ("block", "parallel", "block:ParallelBlock", "attention and MLP beside each other, one input projection"),
        ("norm", "layernorm", "norm:LayerNorm", "layer norm, eps 1e-6"),
        ("norm", "rmsnorm", "norm:RMSNorm", "root-mean-square norm, eps 1e-6"),
        ("mlp", "gelu", "mlp:GeluMlp", "exact GELU"),
        ("mlp", "gelu_tanh", "mlp:GeluTanhMlp", "GELU's tanh approximation"),
        ("mlp", "quick_gelu", "mlp:QuickGeluMlp", "x * sigmoid(1.702 x)"),
        ("mlp", "relu", "mlp:ReluMlp", "ReLU"),
        ("mlp", "swiglu", "mlp:SwiGLU", "SiLU-gated, gate and value as two layers"),
        ("mlp", "swiglu_packed", "mlp:PackedSwiGLU", "SiLU-gated, gate and value in one layer"),
        ("pool", "token", "pool.simple:TokenPool", "the class token"),
        ("pool", "avg", "pool.simple:AvgPool", "mean of the patches"),
        ("pool", "avgmax", "pool.simple:AvgMaxPool", "half mean, half maximum"),
        ("pool", "max", "pool.simple:MaxPool", "maximum of the patches"),
        ("pool", "map", "pool.map:AttentionPool", "a learned query attends to the patches"),
        ("pool", "distilled", "pool.simple:DistilledPool", "class and distillation token, a head each"),
        ("pool", "gem", "pool.simple:GemPool", "generalised mean with a learned exponent"),
        ("pool", "none", "pool.simple:NoPool", "all tokens"),
    ):
        needs = {"dist_token": True} if name == "distilled" else {}
        registrar.add(kind, name, f"vitzoo.{target}", doc=doc, test_config=needs)


def _register_formats(registrar: Registrar) -> None:
    for name, target, doc in (
        ("dinov2", "dinov2:Dinov2", "DINOv2's own files"),
        ("dinov3", "dinov3:Dinov3", "DINOv3's own files"),
        ("jax", "jax:Jax", "augreg's and big_vision's .npz files; read only"),
        ("mae", "mae:Mae", "MAE's own files"),
        ("open_clip", "open_clip:OpenClip", "image towers of open_clip and of OpenAI's CLIP"),
        ("timm", "timm:Timm", "timm's VisionTransformer and Eva"),
        ("torchvision", "torchvision:Torchvision", "torchvision's VisionTransformer"),
        ("transformers", "transformers:Transformers", "Hugging Face: ViT, DeiT, DINOv2, DINOv3, CLIP, SigLIP, MAE"),
    ):
        registrar.add(
            "weights", name, f"vitzoo.weights.formats.{target}", doc=doc, test_config=TESTED_FORMATS.get(name, {})
        )


def _register_backends(registrar: Registrar) -> None:
    in_torch = AttentionCaps(
        devices=ANY_DEVICE,
        dtypes=FLOATS,
        head_dims=None,
        backward=True,
        cross=True,
        bias=True,
        bias_grad=True,
        key_mask=True,
        dropout=True,
    )
    registrar.add(
        "attention",
        "reference",
        "vitzoo_kernels:attention_reference",
        doc="the definition, in readable PyTorch",
        caps=replace(in_torch, lse=True),
    )
    registrar.add(
        "attention",
        "sdpa",
        "vitzoo.attention.backends:sdpa",
        doc="torch's scaled_dot_product_attention",
        caps=in_torch,
    )
    # Triton decides when it is imported whether kernels are interpreted on the CPU or compiled for a GPU.
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    on_a_cpu = "To run the kernel slowly on a CPU, set TRITON_INTERPRET=1 before Python starts."
    registrar.add(
        "attention",
        "triton",
        "vitzoo_kernels:attention",
        doc="vitzoo's own kernel",
        caps=AttentionCaps(
            devices=("cpu",) if interpreted else ("cuda",),
            dtypes=supported.INTERPRETER_DTYPES if interpreted else supported.DTYPES,
            head_dims=supported.HEAD_DIMS,
            packages=(("triton", "{}.{}".format(*supported.MIN_TRITON)),),
            min_capability=supported.MIN_CAPABILITY,
            backward=True,
            cross=True,
            bias=True,
            bias_grad=True,
            key_mask=True,
            dropout=True,
            varlen=True,
            lse=True,
            deterministic=True,
            note="" if interpreted else on_a_cpu,
        ),
    )
