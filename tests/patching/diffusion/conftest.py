"""Provides a small diffusers package instead of the installed one, and a pipeline's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from fa3cli.patching.diffusion.library import Diffusers
from fa3cli.patching.formats import pipeline
from tests.patching.diffusion import samples


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Diffusers:
    found = samples.library(tmp_path)
    monkeypatch.setattr(pipeline, "installed_diffusers", lambda: found)
    return found


@pytest.fixture
def flux(tmp_path: Path, library: Diffusers) -> Path:
    return samples.pipeline(tmp_path / "flux", vae="AutoencoderKL", transformer="FluxTransformer2DModel")
