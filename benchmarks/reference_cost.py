"""Measures the CPU time of fa3 and of msModelSlim for the same exports, and counts tensors that differ in any bit.

A random Llama of 8 layers x 1024, 16 samples x 256 tokens, float32, one thread, reference numerics: act_method 1, FA3,
L0; and m3, act_method 3, L5, FA3. Each tool runs in its own process, which also times a bare forward of the same
samples. Run it with the python of an environment that has both tools (`make versions` makes .venvs/msmodelslim).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from random_llama import make_llama, make_samples
from reference_run import load_model, quantize, read_samples

CASES = {
    "act 1, L0, FA3": {"act_method": 1, "disable_level": "L0", "anti_method": "none"},
    "m3, act 3, L5, FA3": {"act_method": 3, "disable_level": "L5", "anti_method": "m3"},
}
_LAYERS = 8
_DOWN = tuple(f"model.layers.{layer}.mlp.down_proj" for layer in range(_LAYERS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        make_samples(root / "calib.jsonl", samples=16, tokens=256)
        for quantizer in ("fa3cli", "msmodelslim"):
            make_llama(root / quantizer, layers=_LAYERS)
            patch = ["-m", "fa3cli", "patch", root / quantizer, "--quantizer", quantizer]
            subprocess.run([sys.executable, *patch], check=True, capture_output=True)
        for round_ in range(arguments.rounds):
            for name, case in CASES.items():
                fa3, reference = (_run_tool(root, quantizer, case, round_) for quantizer in ("fa3cli", "msmodelslim"))
                print(
                    f"{name}: fa3 {fa3['seconds']:.1f} s ({fa3['seconds'] / fa3['bare']:.2f} bare forwards), "
                    f"msModelSlim {reference['seconds']:.1f} s ({reference['seconds'] / reference['bare']:.2f}), "
                    f"ratio {fa3['seconds'] / reference['seconds']:.2f}; "
                    f"tensors that differ: {_differing(fa3['export'], reference['export'])}",
                    flush=True,
                )


def _run_tool(root: Path, quantizer: str, case: dict[str, Any], round_: int) -> dict[str, Any]:
    output = root / f"{quantizer}-{case['act_method']}-{round_}"
    call = [sys.executable, Path(__file__).absolute(), "--side", root, quantizer, output, json.dumps(case)]
    done = subprocess.run(call, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=root)
    return json.loads(done.stdout.splitlines()[-1]) | {"export": output}


def _differing(*exports: Path) -> int:
    from safetensors.torch import load_file

    one, other = (load_file(folder / "quant_model_weight_w8a8.safetensors") for folder in exports)
    same = sum(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name])
        for name in one.keys() & other.keys()
    )
    return len(one.keys() | other.keys()) - same


def measure_tool(root: Path, quantizer: str, output: Path, case: dict[str, Any]) -> None:
    """Run one tool and print its CPU seconds, without imports and loading."""
    torch.set_num_threads(1)
    run = {"fa3cli": _fa3, "msmodelslim": _reference}[quantizer]
    bare, seconds = run(root, output, case)
    print(json.dumps({"bare": bare, "seconds": seconds}))


def _fa3(root: Path, output: Path, case: dict[str, Any]) -> tuple[float, float]:
    from fa3cli import api
    from fa3cli.runs.options import RunOptions

    calib = root / "calib.jsonl"
    bare = _bare(load_model(root / "fa3cli"), read_samples(calib))
    options = {"numerics": "reference", "disable_names": _DOWN, **case}
    [job] = api.jobs_of(RunOptions(root / "fa3cli", calib=calib, output=output, **options))
    return bare, _cpu_seconds(lambda: api.run(job))


def _reference(root: Path, output: Path, case: dict[str, Any]) -> tuple[float, float]:
    model, samples = load_model(root / "msmodelslim"), read_samples(root / "calib.jsonl")
    bare = _bare(model, samples)
    return bare, _cpu_seconds(lambda: quantize(model, samples, output, disable_names=_DOWN, **case))


def _bare(model: torch.nn.Module, samples: list[torch.Tensor]) -> float:
    """Return the CPU seconds of the decoder's forwards, without lm_head, which calibration does not run either."""
    with torch.no_grad():
        return _cpu_seconds(lambda: [model.model(ids, use_cache=False) for ids in samples])


def _cpu_seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        measure_tool(Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), json.loads(sys.argv[5]))
    else:
        main()
