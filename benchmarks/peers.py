"""Measures CPU time and memory of whole runs of fa3, msModelSlim and llmcompressor's sequential pipeline.

All tools get the same random Llama of 8 layers x 1024, 16 samples x 256 tokens, float32, one thread. All linears except
lm_head become W8A8 with static inputs; q, k and v get one scale per head. A run goes from the weights folder to the
export, with loading and saving, without imports. fa3 uses improved numerics, act_method 1 and no AntiOutlier. Each tool
runs in its own processes, with the python of its environment; the tools take turns. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from random_llama import make_llama, make_samples

_HERE = Path(__file__).absolute().parent
_PERIOD = 0.003  # seconds between two samples of a run's memory
_TARGET, _AIM = 1.3, 1.15  # for the ratio of fa3's CPU seconds to forward + reading + writing
# With this threshold glibc maps every large tensor by itself and unmaps it when it is freed. The peak then counts live
# tensors only, without free heap between them. It causes page faults, so CPU time is never taken from such a run.
_UNMAPPED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "131072"}
# Names of fa3 and msModelSlim, and of llmcompressor.
_HEAD_SCALE = re.compile(r"(fa_[qkv]\.scale|self_attn\.[qkv]_scale)$")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--msmodelslim", metavar="PYTHON", help="python of an environment with msmodelslim")
    parser.add_argument("--llmcompressor", metavar="PYTHON", help="python of an environment with llmcompressor")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    pythons = {
        "fa3": sys.executable,
        "msmodelslim": arguments.msmodelslim,
        "llmcompressor": arguments.llmcompressor,
        "llmcompressor_one_pass": arguments.llmcompressor,
    }
    # Absolute, but links are not resolved: python finds its environment by the path of the link.
    pythons = {tool: os.path.abspath(python) for tool, python in pythons.items() if python}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        _make_fixture(root, pythons)
        seen: dict[str, list[dict[str, float]]] = {tool: [] for tool in pythons}
        for round_ in range(arguments.rounds):
            for tool, python in pythons.items():
                seen[tool].append(measure(tool, python, root, {}))
                print(f"round {round_ + 1}, {tool}: {_line(seen[tool][-1])}", flush=True)
        medians = {tool: _medians(rounds) for tool, rounds in seen.items()}
        for tool, python in pythons.items():
            medians[tool]["held"] = measure(tool, python, root, _UNMAPPED_AT_ONCE)["anonymous"]
            print(
                f"freed tensors unmapped at once, {tool}: {medians[tool]['held']:.0f} MB anonymous",
                flush=True,
            )
    _report(medians)


def measure(tool: str, python: str, root: Path, environment: Mapping[str, str]) -> dict[str, float]:
    """Return a run's CPU seconds, its peaks in MB above the imports, its baselines, and counts of its export."""
    output = root / f"out-{tool}"
    environment = {**os.environ, **environment, "OMP_NUM_THREADS": "1", "HF_MODULES_CACHE": f"{root}/hf"}
    log = root / f"{tool}.log"
    with log.open("w") as errors:
        run = subprocess.Popen(
            [python, _HERE / "peer_runs.py", tool, root, output],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=root,
            env=environment,
        )
        with run:
            if run.stdout.readline().strip() != "imported":
                sys.exit(log.read_text()[-4000:])
            peaks, done = {}, threading.Event()
            before = _resident(run.pid)
            sampler = threading.Thread(target=_watch, args=(run.pid, done, peaks))
            sampler.start()
            print(file=run.stdin, flush=True)
            line = run.stdout.readline()
            done.set()
            sampler.join()
            rest = run.stdout.readline()
    if run.returncode:
        sys.exit(log.read_text()[-4000:])
    memory = {kind: (peaks[kind] - before[kind]) / 1024 for kind in peaks}
    held = _contents(output)
    shutil.rmtree(output)
    shutil.rmtree(output.with_name(f"{output.name}-tiny"))
    return json.loads(line) | json.loads(rest) | memory | held


def _make_fixture(root: Path, pythons: dict[str, str]) -> None:
    """Write the weights once, and per tool a folder with links to them, patched if the tool needs a patch."""
    make_samples(root / "calib.jsonl", samples=16, tokens=256)
    make_samples(root / "tiny.jsonl", samples=2, tokens=32)
    make_llama(root / "llama", layers=8)
    make_llama(root / "tiny", layers=2, hidden=256)
    for tool, python in pythons.items():
        for model in ("llama", "tiny"):
            folder = root / f"{model}-{tool}"
            shutil.copytree(root / model, folder, copy_function=_link_weights)
            if tool in ("fa3", "msmodelslim"):
                _patch(folder, python, {"fa3": "fa3cli"}.get(tool, tool))


def _link_weights(source: str, target: str) -> None:
    (os.link if source.endswith(".safetensors") else shutil.copyfile)(source, target)


def _patch(folder: Path, python: str, quantizer: str) -> None:
    """Patch with the tool's python, since the file must fit its transformers; fa3cli comes from this repository."""
    call = f"from fa3cli import patch; patch({str(folder)!r}, quantizer={quantizer!r})"
    subprocess.run([python, "-c", call], check=True, env=os.environ | {"PYTHONPATH": str(_HERE.parent)})


def _resident(process: int) -> dict[str, int]:
    """Return kB of anonymous memory, and of anonymous memory plus the pages of mapped files."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
    return {"anonymous": sizes["RssAnon"], "resident": sizes["RssAnon"] + sizes["RssFile"]}


def _watch(process: int, done: threading.Event, peaks: dict[str, int]) -> None:
    """Record the peaks until the run is done; from another process, so that the run's CPU time is not changed."""
    while not done.wait(_PERIOD):
        for kind, size in _resident(process).items():
            peaks[kind] = max(peaks.get(kind, 0), size)


def _contents(folder: Path) -> dict[str, float]:
    """Return the numbers of int8 weights and of per-head scales of an export, and its megabytes."""
    from safetensors import safe_open

    matrices = heads = size = 0
    for file in folder.glob("*.safetensors"):
        size += file.stat().st_size
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 -- safe_open is no dict
                matrices += name.endswith(".weight") and tensors.get_slice(name).get_dtype() == "I8"
                heads += bool(_HEAD_SCALE.search(name))
    return {"matrices": matrices, "heads": heads, "megabytes": size / 1e6}


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(run[key] for run in rounds) for key in rounds[0]}


def _line(seen: dict[str, Any]) -> str:
    return (
        f"{seen['seconds']:.2f} s CPU, {seen['seconds'] / seen['forward']:.2f} bare forwards of {seen['forward']:.2f} s; "
        f"{seen['anonymous']:.0f} MB anonymous, {seen['resident']:.0f} MB with mapped files; "
        f"{seen['matrices']:.0f} int8 weights, {seen['heads']:.0f} q/k/v scales, {seen['megabytes']:.0f} MB"
    )


def _report(medians: dict[str, dict[str, float]]) -> None:
    for tool, seen in medians.items():
        print(f"median, {tool}: {_line(seen)}")
    fa3 = medians.pop("fa3")
    baseline = fa3["forward"] + fa3["read"] + fa3["write"]
    print(
        f"fa3 over forward {fa3['forward']:.2f} + reading {fa3['read']:.2f} + writing {fa3['write']:.2f} s: "
        f"{fa3['seconds'] / baseline:.2f} (target {_TARGET}, aim {_AIM})"
    )
    for tool, other in medians.items():
        cpu, memory, held = (fa3[key] / other[key] for key in ("seconds", "anonymous", "held"))
        print(
            f"fa3 over {tool}: CPU {cpu:.2f} (target below 1), anonymous memory {memory:.2f}, "
            f"with freed tensors unmapped at once {held:.2f} (target 0.5)"
        )


if __name__ == "__main__":
    main()
