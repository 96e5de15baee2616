"""Measures the CPU time of `fa3 verify` relative to sha256 of the same files, and its peak of anonymous memory.

Writes a random export of Llama 8B's shape for each `--target`: `--layers` layers of 218 MB, in shards of about 1 GB.
Both programs read it from the page cache; the medians of `--runs` runs are compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from fa3cli.exports.checksums import bytes_of, checksum
from fa3cli.exports.layout import FA_TENSORS, REPORT_FILE, W8A8
from fa3cli.exports.targets import TARGETS
from fa3cli.exports.targets.target import Target, Written

_HIDDEN, _MIDDLE, _HEADS, _KV_HEADS, _HEAD_DIM, _VOCAB = 4096, 14336, 32, 8, 128, 32000
_LAYERS_PER_SHARD = 5
_LINEARS = {
    "self_attn.q_proj": (_HIDDEN, _HIDDEN),
    "self_attn.k_proj": (_KV_HEADS * _HEAD_DIM, _HIDDEN),
    "self_attn.v_proj": (_KV_HEADS * _HEAD_DIM, _HIDDEN),
    "self_attn.o_proj": (_HIDDEN, _HIDDEN),
    "mlp.gate_proj": (_MIDDLE, _HIDDEN),
    "mlp.up_proj": (_MIDDLE, _HIDDEN),
    "mlp.down_proj": (_HIDDEN, _MIDDLE),
}
_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": _HIDDEN,
    "intermediate_size": _MIDDLE,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": _KV_HEADS,
    "head_dim": _HEAD_DIM,
    "vocab_size": _VOCAB,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
_HASH = "import hashlib, sys\nfor name in sys.argv[1:]: hashlib.file_digest(open(name, 'rb'), 'sha256')"
_IMPORTS = (
    "import fa3cli.cli.app, fa3cli.exports.verification, torch, numpy, rich.console, rich.table, transformers; "
    "from transformers import LlamaForCausalLM"
)
_PEAK = """
import sys, threading, time
from fa3cli import api
import numpy, torch
from transformers import LlamaForCausalLM

def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

def sample():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.002)

before = peak = anonymous()
threading.Thread(target=sample, daemon=True).start()
assert api.verify(sys.argv[1]).ok
print(peak - before)
"""


def write_export(target: Target, folder: Path, layers: int) -> None:
    """Write an export with random weights and tensors of matching shapes."""
    folder.mkdir()
    names = [
        "model.embed_tokens",
        *(f"model.layers.{layer}" for layer in range(layers)),
        "model.norm",
        "lm_head",
    ]
    shards = [names[start : start + _LAYERS_PER_SHARD] for start in range(0, len(names), _LAYERS_PER_SHARD)]
    weight_map: dict[str, str] = {}
    checksums: dict[str, str] = {}
    for number, modules in enumerate(shards, 1):
        tensors = {name: tensor for module in modules for name, tensor in _tensors(target, module).items()}
        file = target.weight_file.replace(".safetensors", f"-{number:05d}-of-{len(shards):05d}.safetensors")
        save_file(tensors, folder / file, dict(target.metadata))
        weight_map |= dict.fromkeys(tensors, file)
        checksums |= {name: checksum([bytes_of(tensor)]) for name, tensor in tensors.items()}
    linears = [f"{name}.{linear}" for name in names if ".layers." in name for linear in _LINEARS]
    attentions = [f"{name}.self_attn" for name in names if ".layers." in name]
    floats = [name for name in weight_map if name.removesuffix(".weight") not in linears and "norm" in name]
    kept = [f"{linear}.weight" for linear in linears] + floats + ["model.embed_tokens.weight", "lm_head.weight"]
    written = Written(kept, dict.fromkeys(linears, W8A8), ["lm_head"], attentions, [])
    config = target.config(_CONFIG | {"num_hidden_layers": layers}, written)
    documents = {
        **target.documents(written),
        target.index_file: {"metadata": {}, "weight_map": weight_map},
        "config.json": config,
        "tokenizer.json": {},
        REPORT_FILE: {"target": target.name, "checksums": checksums},
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document))


def _tensors(target: Target, module: str) -> dict[str, Tensor]:
    """Return the tensors of the embedding, a layer, the last norm or the head."""
    if ".layers." not in module:
        shape = (_HIDDEN,) if module.endswith("norm") else (_VOCAB, _HIDDEN)
        return {f"{module}.weight": torch.randn(shape, dtype=torch.bfloat16)}
    tensors = {
        f"{module}.{norm}.weight": torch.ones(_HIDDEN, dtype=torch.bfloat16)
        for norm in ("input_layernorm", "post_attention_layernorm")
    }
    for linear, shape in _LINEARS.items():
        made = target.linear(_linear(*shape)).items()
        tensors |= {f"{module}.{linear}.{leaf}": tensor for leaf, tensor in made}
    made = target.attention(_attention(), _HEAD_DIM, {})
    return tensors | {f"{module}.self_attn.{leaf}": tensor for leaf, tensor in made.items()}


def _linear(rows: int, columns: int) -> dict[str, Tensor]:
    weight = torch.randint(-127, 128, (rows, columns), dtype=torch.int8)
    scale, input_scale = torch.rand(rows, 1).bfloat16() + 0.01, torch.tensor([0.5]).bfloat16()
    return {
        "weight": weight,
        "weight_scale": scale,
        "weight_offset": torch.zeros_like(scale),
        "input_scale": input_scale,
        "input_offset": torch.tensor([-7.0]).bfloat16(),
        "quant_bias": (weight.sum(1) * 7).int(),
        "deq_scale": (input_scale.float() * scale.float()).flatten(),
    }


def _attention() -> dict[str, Tensor]:
    heads = {"q": _HEADS, "k": _KV_HEADS, "v": _KV_HEADS}
    tensors = {}
    for leaf in FA_TENSORS:
        shape = (heads[leaf[3]], 1)
        is_scale = leaf.endswith("scale")
        tensors[leaf] = torch.ones(shape, dtype=torch.bfloat16) if is_scale else torch.zeros(shape, dtype=torch.int8)
    return tensors


def _cpu_seconds(command: list[object]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime


def measure(target: Target, folder: Path, runs: int) -> str:
    """Return a line that compares verification with hashing."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    commands = {
        "sha256": ["-c", _HASH, *files],
        "verify": ["-m", "fa3cli", "verify", folder, "--target", target.name],
        "imports": ["-c", _IMPORTS],
    }
    hashlib.file_digest(files[0].open("rb"), "sha256")
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):  # in turn, so that a busy machine slows all commands alike
        for name, command in commands.items():
            seconds[name].append(_cpu_seconds(command))
    took = {name: statistics.median(times) for name, times in seconds.items()}
    done = subprocess.run([sys.executable, "-c", _PEAK, folder], check=True, capture_output=True, text=True)
    gigabytes = sum(file.stat().st_size for file in files) / 1e9
    return (
        f"{target.name}: {gigabytes:.2f} GB, sha256 {took['sha256']:.2f} s, verify {took['verify']:.2f} s "
        f"(imports {took['imports']:.2f} s of it), ratio {took['verify'] / took['sha256']:.2f}, without imports "
        f"{(took['verify'] - took['imports']) / took['sha256']:.2f}; RssAnon at most "
        f"{int(done.stdout) / 1024:.0f} MB above the imports"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--target", action="append", choices=list(TARGETS))
    options = parser.parse_args()
    for name in options.target or ("modelslim", "vllm"):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "export")
            write_export(TARGETS[name], folder, options.layers)
            print(measure(TARGETS[name], folder, options.runs), flush=True)


if __name__ == "__main__":
    main()
