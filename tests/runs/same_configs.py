"""Prints, as json, which model types' configs fa3 reads differently from transformers itself."""

import json
import tempfile
from pathlib import Path

TYPES = ("llama", "qwen2", "qwen3", "mistral", "phi3", "gemma2", "gpt2", "mixtral", "olmo", "stablelm")


def differing(types: tuple[str, ...] = TYPES) -> list[str]:
    """Return the types whose config differs."""
    return [name for name in types if _differs(name)]


def _differs(model_type: str) -> bool:
    from transformers import CONFIG_MAPPING, AutoConfig

    from fa3cli.models.skeleton import read_config

    if model_type not in CONFIG_MAPPING:
        return False
    with tempfile.TemporaryDirectory() as place:
        AutoConfig.for_model(model_type, torch_dtype="bfloat16").save_pretrained(place)
        expected = AutoConfig.from_pretrained(place, local_files_only=True)
        found = read_config(Path(place), trusted=False)
    return (
        type(found) is not type(expected)
        or found.to_dict() != expected.to_dict()
        or vars(found).keys() != vars(expected).keys()
        or found.name_or_path != expected.name_or_path
        or found._attn_implementation != expected._attn_implementation
    )


if __name__ == "__main__":
    print(json.dumps(differing()))
