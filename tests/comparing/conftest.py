"""Provides the tiny pipelines of tests/pipelines."""

from tests.pipelines.conftest import flux, made, patched_flux

__all__ = ["flux", "made", "patched_flux"]
