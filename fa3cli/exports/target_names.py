"""Lists the names of the targets, without importing the code that writes exports for them."""

__all__ = ["TARGET_NAMES"]

TARGET_NAMES = ("modelslim", "mindie", "vllm-ascend", "vllm", "mindie-sd")
