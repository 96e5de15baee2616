"""What config.json says about a model before its code is looked at: can it be patched at all?"""

from __future__ import annotations

from fa3cli.errors import UnsupportedError
from fa3cli.patching.config_json import Config
from fa3cli.patching.installed import Installed

__all__ = ["check_config"]


def check_config(config: Config, installed: Installed) -> tuple[str, ...]:
    """Refuse what the config says can't work, and return what to warn of."""
    data = config.data
    rope = data.get("rope_scaling") or data.get("rope_parameters") or {}
    if isinstance(rope, dict) and rope.get("rope_type") == "llama3" and installed.older_than(4, 43, 0):
        raise UnsupportedError(
            f"Llama 3.1 (rope_type llama3) needs transformers 4.43.0 or newer, installed is {installed.version}"
        )
    written = data.get("transformers_version")
    if written and written != installed.version:
        return (f"config.json was written by transformers {written}, installed is {installed.version}",)
    return ()
