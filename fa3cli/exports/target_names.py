"""Names the engines that exports can be written for, without importing what writes them."""

__all__ = ["TARGET_NAMES"]

TARGET_NAMES = ("modelslim", "mindie", "vllm-ascend", "vllm", "mindie-sd")
