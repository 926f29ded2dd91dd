"""Swin Transformer and Swin Transformer V2 as a plugin of vitzoo."""
