"""Makes tiny random models, on disk and in memory, and samples: real code, random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fa3cli.runs.job import Job
from fa3cli.runs.options import RunOptions

WEIGHTS = "model.safetensors"
SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


def random_model(model_type: str, **options: Any) -> nn.Module:
    """A model with noise in all parameters, also in norms and biases of routers, so that each of them matters."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    implementation = options.pop("attn_implementation", None)
    config = AutoConfig.for_model(model_type, **{**SIZES, **options})
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        for name, buffer in model.named_buffers():
            if name.endswith("correction_bias"):
                buffer.add_(torch.randn_like(buffer) * 0.2)
    return model.eval()


def write_model(folder: Path, model_type: str = "llama", *, patched: bool = True, **options: Any) -> Path:
    """Write a random model and patch it."""
    from fa3cli import patching

    dtype = options.pop("dtype", torch.float32)
    random_model(model_type, **options).to(dtype).save_pretrained(folder)
    if patched:
        patching.patch(folder)
    return folder


def edit_config(folder: Path, **values: Any) -> None:
    """Change fields of a folder's config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values, indent=2))


def edit_weights(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors of a folder with one weights file."""
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def split_weights(folder: Path, shards: int) -> Path:
    """Store a folder's weights in shards; return the index."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = sorted(tensors)[number::shards]
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    return write_index(folder, weight_map)


def write_index(folder: Path, weight_map: dict[str, Any]) -> Path:
    """Write an index of shards."""
    index = folder / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def token_ids(*lengths: int, vocab: int = 96) -> list[list[int]]:
    """Random token ids, the same in every run: one list per length."""
    generator = torch.Generator().manual_seed(len(lengths))
    return [torch.randint(1, vocab, (length,), generator=generator).tolist() for length in lengths]


def write_lines(file: Path, lines: list[Any]) -> Path:
    """Write one json object per line; a list becomes token ids."""
    records = [{"input_ids": line} if isinstance(line, list) else line for line in lines]
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def write_config(folder: Path, model_type: str = "llama", *, patched: bool = True, **options: Any) -> Path:
    """Write a config.json alone, and patch the folder."""
    from transformers import AutoConfig

    from fa3cli import patching

    config = AutoConfig.for_model(model_type, **{**SIZES, **options})
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    if patched:
        patching.patch(folder)
    return folder


def prepare(folder: str | Path, *, only_calibrate: bool = False, **options: Any) -> Job:
    """The job of a language model, from the options of a script."""
    from fa3cli.runs import preparing

    return preparing.prepare(RunOptions(folder, **options), only_calibrate=only_calibrate)
