"""Lists the names of the targets, without importing the code that writes exports for them."""

__all__ = ["DEFAULT_TARGETS", "TARGET_NAMES"]

TARGET_NAMES = ("modelslim", "mindie", "vllm-ascend", "vllm", "mindie-sd")
# By whether the model is a transformer of a pipeline.
DEFAULT_TARGETS = {False: "modelslim", True: "mindie-sd"}
