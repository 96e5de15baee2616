"""Runs one tool from a weights folder to an export, for peers.py, which starts this script with the tool's python.

It imports fa3cli only if the tool is fa3, so the environment of another tool does not need it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from reference_run import load_model, quantize, read_samples

__all__ = ["RUNS"]

_CHUNK = 1 << 20


def fa3(folder: Path, calib: Path, output: Path) -> None:
    from fa3cli import api

    api.quantize(folder, calib=calib, output=output, recipe="none", act_method=1, anti_method="none")


def msmodelslim(folder: Path, calib: Path, output: Path) -> None:
    quantize(load_model(folder), read_samples(calib), output)


def llmcompressor(folder: Path, calib: Path, output: Path) -> None:
    _llmcompressor(folder, calib, output)


def llmcompressor_one_pass(folder: Path, calib: Path, output: Path) -> None:
    """Calibrate as fa3 does: the next layer gets the float layer's output, which saves one forward per layer."""
    _llmcompressor(folder, calib, output, propagate_error=False)


def _llmcompressor(folder: Path, calib: Path, output: Path, **options: Any) -> None:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    # The same scheme as fa3's: weights per row, inputs per tensor and asymmetric, q, k and v per head.
    linears = QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(num_bits=8, strategy="channel"),
        input_activations=QuantizationArgs(num_bits=8, strategy="tensor", symmetric=False),
    )
    heads = QuantizationScheme(
        targets=["LlamaAttention"], input_activations=QuantizationArgs(num_bits=8, strategy="attn_head")
    )
    samples = read_samples(calib)
    oneshot(
        model=model,
        # The folder has no tokenizer, and token ids need none; an object keeps llmcompressor from loading one.
        processor=object(),
        dataset=Dataset.from_dict({"input_ids": [ids[0].tolist() for ids in samples]}),
        recipe=QuantizationModifier(config_groups={"linears": linears, "heads": heads}, ignore=["lm_head"]),
        pipeline="sequential",
        num_calibration_samples=len(samples),
        shuffle_calibration_samples=False,
        **options,
    )
    model.save_pretrained(output, save_compressed=True)


RUNS = {run.__name__: run for run in (fa3, msmodelslim, llmcompressor, llmcompressor_one_pass)}


def main(tool: str, root: Path, output: Path) -> None:
    """Run the tool on a tiny model and wait for a line on stdin; then run it on the model, then measure the baselines.

    Prints a line after each of the three steps. The tiny run does all imports, lazy ones too.
    """
    results = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # the tools' own output goes to stderr: peers.py reads only results
    torch.set_num_threads(1)
    calib, run = root / "calib.jsonl", RUNS[tool]
    run(root / f"tiny-{tool}", root / "tiny.jsonl", output.with_name(f"{output.name}-tiny"))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    print("imported", file=results)
    sys.stdin.readline()
    seconds = _cpu_seconds(lambda: run(root / f"llama-{tool}", calib, output))
    print(json.dumps({"seconds": seconds}), file=results)
    print(
        json.dumps({"forward": _forward(root / "llama", calib)} | _files(root / "llama", output)),
        file=results,
    )


def _forward(folder: Path, calib: Path) -> float:
    """Return the CPU seconds of the decoder's forwards, without lm_head, which calibration does not run either."""
    from transformers import AutoModelForCausalLM

    model, samples = AutoModelForCausalLM.from_pretrained(folder).eval(), read_samples(calib)
    with torch.no_grad():
        model.model(samples[0], use_cache=False)  # warm-up: loads the pages of the weights, allocates memory
        return _cpu_seconds(lambda: [model.model(ids, use_cache=False) for ids in samples])


def _files(folder: Path, output: Path) -> dict[str, float]:
    """Return the CPU seconds of reading the checkpoint's bytes once, and of writing as many bytes as the export has."""
    written = sum(file.stat().st_size for file in output.glob("*.safetensors"))
    scratch, chunk = output.with_name(f"{output.name}-bytes"), bytearray(_CHUNK)

    def read() -> None:
        for shard in folder.glob("*.safetensors"):
            with shard.open("rb", buffering=0) as file:
                while file.readinto(chunk):
                    pass

    def write() -> None:
        with scratch.open("wb", buffering=0) as file:
            for begin in range(0, written, _CHUNK):
                file.write(memoryview(chunk)[: written - begin])
            os.fsync(file.fileno())

    seconds = {"read": _cpu_seconds(read), "write": _cpu_seconds(write)}
    scratch.unlink()
    return seconds


def _cpu_seconds(work: Callable[[], object]) -> float:
    begin = _now()
    work()
    return _now() - begin


def _now() -> float:
    """Return the CPU seconds so far, including those of finished child processes."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
