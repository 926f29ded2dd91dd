"""FlexAttention as a backend for vitzoo."""
