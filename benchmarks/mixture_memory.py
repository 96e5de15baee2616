"""Measures peak memory and CPU time of `fa3 quantize` on a mixture with layers of Qwen3-30B-A3B's shape.

Two random layers of 128 experts of 2048 x 768 in bfloat16, 1.2 GB each; 4 samples of 256 tokens, one thread. Samples
RssAnon of the process, minus its value after the imports, and prints the plan's bound beside it. Linux only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from random_llama import make_samples
from safetensors.torch import save_file
from transformers import AutoConfig

_HIDDEN, _INNER, _EXPERTS, _HEADS, _KV_HEADS, _HEAD_DIM, _VOCAB, _LAYERS = 2048, 768, 128, 32, 4, 128, 2048, 2
_RUN = """
import resource, sys, threading, time
from pathlib import Path

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

peak = [0]
def sample():
    while True:
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.002)

def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

import torch, transformers
from transformers.models.qwen3_moe import modeling_qwen3_moe
from fa3cli import api
from fa3cli.runs.options import RunOptions
torch.set_num_threads(1)
folder, calib, output = map(Path, sys.argv[1:])
[job] = api.jobs_of(RunOptions(folder, output, calib=calib))
planned = api.plan(job).peak_memory
before, begin = anonymous(), cpu_seconds()
threading.Thread(target=sample, daemon=True).start()
api.run(job)
print(peak[0] - before, planned >> 10, cpu_seconds() - begin)
"""


def make_mixture(folder: Path) -> Path:
    """Write a random model, one shard per layer, under the names that Qwen3's checkpoints have."""
    folder.mkdir()
    shapes = {"model.embed_tokens": (_VOCAB, _HIDDEN), "lm_head": (_VOCAB, _HIDDEN), "model.norm": (_HIDDEN,)}
    weight_map = _save(folder, "model-00000.safetensors", shapes)
    for layer in range(_LAYERS):
        attention = {"q": _HEADS * _HEAD_DIM, "k": _KV_HEADS * _HEAD_DIM, "v": _KV_HEADS * _HEAD_DIM}
        parts = {f"self_attn.{role}_proj": (rows, _HIDDEN) for role, rows in attention.items()}
        parts |= {"self_attn.o_proj": (_HIDDEN, _HEADS * _HEAD_DIM), "mlp.gate": (_EXPERTS, _HIDDEN)}
        parts |= {f"self_attn.{role}_norm": (_HEAD_DIM,) for role in "qk"}
        parts |= {f"{place}_layernorm": (_HIDDEN,) for place in ("input", "post_attention")}
        for expert in range(_EXPERTS):
            parts |= {f"mlp.experts.{expert}.{name}_proj": (_INNER, _HIDDEN) for name in ("gate", "up")}
            parts |= {f"mlp.experts.{expert}.down_proj": (_HIDDEN, _INNER)}
        named = {f"model.layers.{layer}.{name}": shape for name, shape in parts.items()}
        weight_map |= _save(folder, f"model-{layer + 1:05}.safetensors", named)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    config = AutoConfig.for_model(
        "qwen3_moe",
        hidden_size=_HIDDEN,
        moe_intermediate_size=_INNER,
        num_experts=_EXPERTS,
        num_experts_per_tok=8,
        num_attention_heads=_HEADS,
        num_key_value_heads=_KV_HEADS,
        head_dim=_HEAD_DIM,
        vocab_size=_VOCAB,
        num_hidden_layers=_LAYERS,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        dtype="bfloat16",
    )
    config.architectures = ["Qwen3MoeForCausalLM"]
    config.save_pretrained(folder)
    return folder


def _save(folder: Path, file: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, str]:
    tensors = {
        f"{name}.weight": torch.ones(shape, dtype=torch.bfloat16)
        if len(shape) == 1
        else torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02)
        for name, shape in shapes.items()
    }
    save_file(tensors, folder / file, metadata={"format": "pt"})
    return dict.fromkeys(tensors, file)


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_mixture(Path(scratch, "mixture"))
        calib = make_samples(Path(scratch, "calib.jsonl"), samples=4, tokens=256)
        subprocess.run([sys.executable, "-m", "fa3cli", "patch", folder], check=True, capture_output=True)
        command = [sys.executable, "-c", _RUN, folder, calib, Path(scratch, "out")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peak, planned, seconds = map(float, done.stdout.split())
        print(
            f"peak RssAnon {peak / 1024:.0f} MB above the imports, planned {planned / 1024:.0f} MB, {seconds:.0f} s of CPU"
        )


if __name__ == "__main__":
    main()
