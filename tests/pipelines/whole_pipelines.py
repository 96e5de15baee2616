"""Lists whole tiny pipelines by a short name, with their sampling settings, and loads one with diffusers itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version

from fa3cli.pipelines.sampling import Sampling
from tests.patching.diffusion.tiny_pipelines import make
from tests.patching.diffusion.tiny_qwen_image import make_qwen_image
from tests.patching.diffusion.tiny_video import make_cogvideox, make_hunyuan_video, make_wan

__all__ = ["PROMPTS", "make_whole", "missing", "plain_pipeline", "sampling_of"]

PROMPTS = ("a cat", "a dog in the rain")
_MAKERS: dict[str, tuple[Callable[[Path], None], dict[str, Any]]] = {
    "flux": (lambda folder: make("FluxTransformer2DModel", folder), {"height": 8, "width": 8}),
    "cogvideox": (make_cogvideox, {"height": 32, "width": 32, "frames": 5, "guidance": 6.0}),
    "hunyuan": (make_hunyuan_video, {"height": 16, "width": 16, "frames": 5, "guidance": 6.0}),
    "qwenimage": (make_qwen_image, {"height": 32, "width": 32}),
    "wan": (make_wan, {"height": 16, "width": 16, "frames": 5, "guidance": 3.0}),
}


def make_whole(name: str, folder: Path) -> None:
    """Write the pipeline, each time the same."""
    torch.manual_seed(0)
    _MAKERS[name][0](folder)


def sampling_of(name: str, **others: Any) -> Sampling:
    """Two prompts, four steps, of the smallest size that a pipeline accepts."""
    return Sampling(**{"prompts": PROMPTS, "steps": 4, "seed": 3, **_MAKERS[name][1], **others})


def plain_pipeline(folder: Path, dtype: torch.dtype = torch.float32, *, trusted: bool = False) -> Any:
    """The pipeline as diffusers loads it; a patched one must be `trusted`."""
    import diffusers

    key = "dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype"
    options = {key: dtype, **({"trust_remote_code": True} if trusted else {})}
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def missing(name: str) -> str | None:
    """Return why the pipeline is not available: diffusers does not have it, or a package is missing."""
    import diffusers

    wan = getattr(diffusers, "WanPipeline", object)
    there = {
        "flux": True,
        "cogvideox": hasattr(diffusers, "CogVideoXPipeline"),
        "hunyuan": hasattr(diffusers, "HunyuanVideoPipeline"),
        "qwenimage": hasattr(diffusers, "QwenImagePipeline"),
        "wan": "transformer_2" in inspect.signature(wan.__init__).parameters,
    }
    if not there[name]:
        return f"diffusers {diffusers.__version__} has no such pipeline"
    if name == "wan" and Version(diffusers.__version__) < Version("0.42") and not find_spec("ftfy"):
        return "its prompts need ftfy"
    return None
