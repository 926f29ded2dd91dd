"""The checkpoints of transformers: one file a family of models."""
