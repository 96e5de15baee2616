"""Lists the values of a model's options, without importing torch."""

__all__ = ["ATTENTION_IMPLEMENTATIONS", "DTYPES"]

DTYPES = ("float32", "bfloat16", "float16")
ATTENTION_IMPLEMENTATIONS = ("auto", "eager", "sdpa")
