"""Opens models: their folders, weights, code and devices; one decoder layer is in memory at a time."""

__all__ = ["ATTENTION_IMPLEMENTATIONS", "DTYPES"]

# The values of options, here because the command line reads them without importing torch.
DTYPES = ("float32", "bfloat16", "float16")
ATTENTION_IMPLEMENTATIONS = ("auto", "eager", "sdpa")
