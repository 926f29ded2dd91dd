"""vitzoo's attention inside other libraries: timm, transformers and torch's own SDPA.

Each module is imported by name, such as `from vitzoo.compat import timm`, and asks for its library at first use.
"""
