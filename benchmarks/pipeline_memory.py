"""Measures the peak memory of `fa3 quantize` on a Flux pipeline: it should not grow with the blocks or the records.

Samples RssAnon of the process, minus its value after the imports, and the bytes of records and states on the disk.
Linux only. Run it in a checkout of the repository: its tests make the pipeline.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

_RUN = """
import sys, threading, time
from pathlib import Path

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

def on_disk(folder):
    sizes = 0
    for file in folder.rglob("*.safetensors*"):
        try:
            sizes += file.stat().st_size
        except FileNotFoundError:
            pass
    return sizes

peak = {"memory": 0, "disk": 0}
def sample():
    while True:
        peak["memory"] = max(peak["memory"], anonymous())
        time.sleep(0.002)

def watch(folder):
    while True:
        peak["disk"] = max(peak["disk"], on_disk(folder))
        time.sleep(0.05)

import torch, transformers
from diffusers import FluxPipeline, FluxTransformer2DModel, AutoencoderKL
from fa3cli import api
import fa3cli.pipelines.preparing
torch.set_num_threads(1)
folder, prompts, output = map(Path, sys.argv[1:4])
before = anonymous()
threading.Thread(target=sample, daemon=True).start()
threading.Thread(target=watch, args=(Path(f"{output}.journal") / "visits",), daemon=True).start()
result = api.quantize(folder, prompts=prompts, output=output, steps=4, height=64, width=64, guidance=3.5)
print(peak["memory"] - before, peak["disk"], result.samples)
"""
_SIZE = {"attention_head_dim": 64, "num_attention_heads": 8, "axes_dims_rope": [16, 24, 24]}


def make_pipeline(folder: Path, blocks: int) -> Path:
    """Write and patch a Flux pipeline of `blocks` double and `blocks` single blocks, 512 wide, in float32."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.patching.diffusion import tiny_pipelines

    sizes = tiny_pipelines.TRANSFORMERS["FluxTransformer2DModel"]
    sizes |= {**_SIZE, "num_layers": blocks, "num_single_layers": blocks}
    tiny_pipelines.make("FluxTransformer2DModel", folder)
    subprocess.run([sys.executable, "-m", "fa3cli", "patch", folder], check=True, capture_output=True)
    return folder


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for blocks, prompts in ((6, 2), (12, 2), (6, 8)):
            folder = make_pipeline(Path(scratch, f"flux{blocks}-{prompts}"), blocks)
            weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
            file = Path(scratch, "prompts.txt")
            file.write_text("".join(f"a cat, and {number} dogs\n" for number in range(prompts)))
            begin = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-c", _RUN, folder, file, Path(scratch, f"out{blocks}-{prompts}")],
                check=True,
                capture_output=True,
                text=True,
            )
            memory, disk, records = map(int, done.stdout.split()[-3:])
            print(
                f"{2 * blocks} blocks of {weights.stat().st_size / 1e6:.0f} MB, {records} recorded calls: RssAnon "
                f"{memory / 1024:.0f} MB above the imports, records and states {disk / 1e6:.0f} MB on the disk, "
                f"{time.monotonic() - begin:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
