"""Defines target mindie: the modelslim layout, restricted to the exports that MindIE-LLM loads."""

from __future__ import annotations

from fa3cli.exports.layout import MODEL_ENTRIES
from fa3cli.exports.targets.modelslim import ModelSlim
from fa3cli.exports.targets.serving import Served, mindie_llm

__all__ = ["MindIE"]


class MindIE(ModelSlim):
    """The form that MindIE-LLM loads: FA3 in all layers or none, fused groups entirely int8 or float."""

    # The same tensors as modelslim; exports/limits.py declares what MindIE-LLM cannot load.
    name = "mindie"
    # MindIE-LLM reads version and group_size.
    model_entries = MODEL_ENTRIES

    def serve(self, export: Served) -> str:
        """Return MindIE-LLM's command."""
        return mindie_llm(export)
