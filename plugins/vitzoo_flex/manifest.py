"""What flex brings. vitzoo reads this whenever it lists names, so it imports no torch."""

from vitzoo import AttentionCaps, Registrar

TORCH = (("torch", "2.15"),)

# Caps are a backend's, not a device's: what a GPU can do and a CPU cannot takes two names for one function.
CUDA = AttentionCaps(
    devices=("cuda",),
    dtypes=("float16", "bfloat16", "float32"),
    head_dims=(16, 32, 64, 128),
    packages=TORCH,
    min_capability=(8, 0),
    backward=True,
    cross=True,
    bias=True,
    bias_grad=True,
    key_mask=True,
    lse=True,
)
CPU = AttentionCaps(
    devices=("cpu",),
    dtypes=("float32", "bfloat16", "float16"),
    head_dims=None,
    packages=TORCH,
    cross=True,
    bias=True,
    key_mask=True,
    note="FlexAttention on a CPU is for inference: call the model under torch.no_grad()",
)


def register(registrar: Registrar) -> None:
    """Name every part, and where it is; vitzoo imports a part when it is first used."""
    registrar.require_api(1)
    registrar.add("attention", "cuda", "vitzoo_flex.attend:attend", doc="torch's FlexAttention on a GPU", caps=CUDA)
    registrar.add(
        "attention", "cpu", "vitzoo_flex.attend:attend", doc="torch's FlexAttention on a CPU, inference only", caps=CPU
    )
