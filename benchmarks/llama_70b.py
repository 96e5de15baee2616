"""Runs `fa3 quantize` on a few random layers of Llama 70B's shape, within a memory cgroup of 6 GiB without swap.

Hidden size 8192, intermediate size 28672, 64/8 heads, vocabulary of 128256, bfloat16: 1.71 GB per decoder layer, 2.10
GB each for embedding and head. Prints the peak of RssAnon above the imports, and the allowed peak: 1.6 times the
largest layer plus the samples' states. Linux with cgroup v1, as root; model and export need 7 to 12 GB on the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from random_llama import make_samples
from safetensors.torch import save_file
from transformers import LlamaConfig

_CGROUP = Path("/sys/fs/cgroup/memory/fa3-benchmark")
_RUN = """
import sys, threading, time
from pathlib import Path

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

import torch, transformers
from transformers.models.llama import modeling_llama
from fa3cli import api
from fa3cli.cli.progress_bar import show_progress
before, peak = resident(), 0

def sample():
    global peak
    while True:
        peak = max(peak, resident())
        time.sleep(0.005)

threading.Thread(target=sample, daemon=True).start()
options = eval(sys.argv[4])
with show_progress("quantize") as progress:
    api.quantize(*sys.argv[1:2], calib=sys.argv[2], output=sys.argv[3], progress=progress, **options)
print((peak - before) * 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for model and export; not removed")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--gib", type=float, default=6)
    parser.add_argument("--options", default="{}", help="options of api.quantize, as a Python dict")
    arguments = parser.parse_args()
    model = make_model(arguments.folder / f"llama-70b-{arguments.layers}", arguments.layers)
    calib = make_samples(arguments.folder / "calib.jsonl", samples=arguments.samples, tokens=arguments.tokens)
    subprocess.run([sys.executable, "-m", "fa3cli", "patch", model], check=True, capture_output=True)
    os.makedirs(_CGROUP, exist_ok=True)
    (_CGROUP / "memory.limit_in_bytes").write_text(str(int(arguments.gib * 2**30)))
    begin = time.monotonic()
    output = arguments.folder / f"export-{os.getpid()}"
    run = [sys.executable, "-c", _RUN, model, calib, output, arguments.options]
    done = subprocess.run(
        run,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        preexec_fn=lambda: (_CGROUP / "cgroup.procs").write_text(str(os.getpid())),
    )
    if done.returncode:
        sys.exit(f"the run ended with {done.returncode}")
    largest = 2 * (2 * 8192**2 + 2 * 1024 * 8192 + 3 * 8192 * 28672 + 2 * 8192)
    states = arguments.samples * arguments.tokens * 8192 * 2
    peak = int(done.stdout)
    most = int((_CGROUP / "memory.max_usage_in_bytes").read_text())
    print(
        f"RssAnon above the imports {peak / 1e9:.2f} GB: {peak / largest:.2f} of the largest layer "
        f"({largest / 1e9:.2f} GB); allowed {(1.6 * largest + states) / 1e9:.2f} GB. "
        f"The cgroup, page cache included, held {most / 1e9:.2f} GB at most. {time.monotonic() - begin:.0f} s"
    )


def make_model(folder: Path, layers: int) -> Path:
    """Write the model with one shard per layer, so that at most one layer is in memory."""
    if (folder / "model.safetensors.index.json").exists():
        return folder
    config = LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=layers,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=8192,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder)
    torch.manual_seed(0)
    parts = {"head": {"lm_head.weight": (128256, 8192), "model.norm.weight": (8192,)}}
    parts["embedding"] = {"model.embed_tokens.weight": (128256, 8192)}
    for number in range(layers):
        linears = {
            "self_attn.q_proj": (8192, 8192),
            "self_attn.k_proj": (1024, 8192),
            "self_attn.v_proj": (1024, 8192),
            "self_attn.o_proj": (8192, 8192),
            "mlp.gate_proj": (28672, 8192),
            "mlp.up_proj": (28672, 8192),
            "mlp.down_proj": (8192, 28672),
            "input_layernorm": (8192,),
            "post_attention_layernorm": (8192,),
        }
        parts[f"layer{number}"] = {f"model.layers.{number}.{name}.weight": shape for name, shape in linears.items()}
    weight_map = {}
    for part, shapes in parts.items():
        file = f"model-{part}.safetensors"
        tensors = {name: _noise(shape) for name, shape in shapes.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def _noise(shape: tuple[int, ...]) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02)


if __name__ == "__main__":
    main()
