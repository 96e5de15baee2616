"""Lists the names of the targets and of their options, without importing the code that writes exports for them."""

__all__ = ["DEFAULT_TARGETS", "KV_CACHE_SCHEMES", "TARGET_NAMES"]

TARGET_NAMES = ("modelslim", "mindie", "vllm-ascend", "vllm", "mindie-sd")
# By whether the model is a transformer of a pipeline.
DEFAULT_TARGETS = {False: "modelslim", True: "mindie-sd"}
# How target vllm stores fp8 scales of q, k and v: not at all, per layer, or per head.
KV_CACHE_SCHEMES = ("none", "tensor", "attn_head")
