"""Tiny whole pipelines, each made once a session; a test that changes one copies it."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version

from fa3cli import patching
from fa3cli.calibration.diffusion.sampling import Sampling
from tests.patching.diffusion.tiny_pipelines import make
from tests.patching.diffusion.tiny_video import make_hunyuan_video, make_wan

_MAKERS: dict[str, tuple[Callable[[Path], None], dict[str, Any]]] = {
    "flux": (lambda folder: make("FluxTransformer2DModel", folder), {"height": 8, "width": 8}),
    "hunyuan": (make_hunyuan_video, {"height": 16, "width": 16, "frames": 5, "guidance": 6.0}),
    "wan": (make_wan, {"height": 16, "width": 16, "frames": 5, "guidance": 3.0}),
}
PROMPTS = ("a cat", "a dog in the rain")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Path]:
    """The folder of a pipeline by name, patched or not; not to be written to."""
    folders: dict[tuple[str, bool], Path] = {}

    def folder_of(name: str, patched: bool = False) -> Path:
        _require(name)
        if (name, patched) not in folders:
            folder = tmp_path_factory.mktemp("pipeline") / name
            if patched:
                shutil.copytree(folder_of(name), folder)
                patching.patch(folder)
            else:
                _MAKERS[name][0](folder)
            folders[name, patched] = folder
        return folders[name, patched]

    return folder_of


@pytest.fixture
def flux(made: Callable[..., Path]) -> Path:
    return made("flux")


@pytest.fixture
def patched_flux(made: Callable[..., Path]) -> Path:
    return made("flux", True)


def sampling_of(name: str, **others: Any) -> Sampling:
    """Two prompts, four steps, of the smallest size a pipeline takes."""
    return Sampling(**{"prompts": PROMPTS, "steps": 4, "seed": 3, **_MAKERS[name][1], **others})


def plain_pipeline(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The pipeline as diffusers loads it."""
    import diffusers

    key = "dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype"
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **{key: dtype})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _require(name: str) -> None:
    """Skip the test where the installed diffusers has no such pipeline, or it wants a package that is not here."""
    import diffusers

    wan = getattr(diffusers, "WanPipeline", object)
    there = {
        "flux": True,
        "hunyuan": hasattr(diffusers, "HunyuanVideoPipeline"),
        "wan": "transformer_2" in inspect.signature(wan.__init__).parameters,
    }
    if not there[name]:
        pytest.skip(f"diffusers {diffusers.__version__} has no such pipeline")
    if name == "wan" and Version(diffusers.__version__) < Version("0.42") and not find_spec("ftfy"):
        pytest.skip("its prompts need ftfy")
