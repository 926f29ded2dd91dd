"""What the dense attention kernel runs, as plain data: readable without torch or triton."""

HEAD_DIMS = tuple(range(16, 129, 8))
DTYPES = ("float16", "bfloat16", "float32")
# Triton's interpreter multiplies bfloat16 bit patterns as if they were integers.
INTERPRETER_DTYPES = ("float16", "float32")
MIN_CAPABILITY = (8, 0)
MIN_TRITON = (3, 6)
