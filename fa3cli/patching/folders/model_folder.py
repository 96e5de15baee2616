"""Refuses folders that hold something else than a float model."""

from __future__ import annotations

from pathlib import Path

from fa3cli.errors import UnsupportedError

__all__ = ["GIVE_FLOAT_MODEL", "require_float_model"]

GIVE_FLOAT_MODEL = "give the folder of the float model that it was made from"
"""The hint for a folder with a quantized model."""


def require_float_model(folder: Path) -> None:
    """Raise UnsupportedError for a folder that holds something else than a model: an export, or a LoRA adapter."""
    if exported := next(folder.glob("quant_model_description*.json"), None):
        raise UnsupportedError(f"{folder}: an export of fa3 or msModelSlim ({exported.name})", hint=GIVE_FLOAT_MODEL)
    # Beside a config.json, the adapter is ignored: the folder holds a model as well.
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise UnsupportedError(
            f"{folder}: a LoRA adapter, which holds no model (adapter_config.json)",
            hint="merge it into its base model (peft: merge_and_unload, save_pretrained), and give the merged folder",
        )
    if not (folder / "config.json").exists() and (file := next(folder.glob("*.gguf"), None)):
        raise UnsupportedError(f"{folder}: a GGUF checkpoint ({file.name})", hint=GIVE_FLOAT_MODEL)
