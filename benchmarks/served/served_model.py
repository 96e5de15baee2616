"""Runs the engine of another environment, and compares its log-probabilities."""

from __future__ import annotations

import json
import subprocess
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

WORKER = Path(__file__).with_name("engine.py")


@dataclass(frozen=True)
class Served:
    """A folder and how the engine serves it; `simulated` if fa3 can compute the same itself."""

    name: str
    folder: Path
    ascend: bool = False
    quantized: bool = True
    kv_cache_dtype: str = "auto"
    simulated: bool = True


@dataclass(frozen=True)
class LogProbabilities:
    """Per line, of all its tokens from one forward, and of its second half from this forward and from decoding."""

    prefill: list[Tensor]
    halves: list[Tensor]
    decoded: list[Tensor]


@dataclass(frozen=True)
class Engine:
    """The python of vLLM's environment, the folder that holds vllm_ascend if there is one, and a folder for files."""

    python: Path
    ascend: Path | None
    scratch: Path

    def log_probabilities(self, served: Served, lines: Sequence[Sequence[int]]) -> LogProbabilities:
        """Return the log-probabilities of the lines, in the dtype that the engine chooses."""
        tokens, out = self.scratch / "tokens.json", self.scratch / "log_probabilities.safetensors"
        tokens.write_text(json.dumps(lines))
        command: list[str | Path] = [self.python, WORKER, served.folder, tokens, out, "--decode"]
        command += ["--kv-cache-dtype", served.kv_cache_dtype]
        command += ["--ascend", self.ascend] if served.ascend and self.ascend else []
        command += ["--quantization", "ascend"] if served.ascend and served.quantized else []
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{served.name}: the engine failed:\n{done.stderr[-3000:]}")
        found = load_file(out)
        prefill, decoded = (
            [found[name] for name in sorted(found) if name.startswith(kind)] for kind in ("prefill.", "decoded.")
        )
        halves = [line[-len(half) :] for line, half in zip(prefill, decoded, strict=True)]
        return LogProbabilities(prefill, halves, decoded)


def agreement(float_model: Sequence[Tensor], quantized: Sequence[Tensor]) -> tuple[float, float]:
    """Return the mean KL divergence and the share of tokens with the same most probable next token."""
    pairs = list(zip(float_model, quantized, strict=True))
    divergence = [(one.exp() * (one - other)).sum(-1) for one, other in pairs]
    same = [one.argmax(-1) == other.argmax(-1) for one, other in pairs]
    return torch.cat(divergence).mean().item(), torch.cat(same).float().mean().item()


def unpacked(package: Path, scratch: Path) -> Path:
    """Return the folder that holds vllm_ascend, for a wheel one into which its Python files were unpacked."""
    if package.is_dir():
        return package
    with zipfile.ZipFile(package) as wheel:
        wheel.extractall(scratch / "ascend", [name for name in wheel.namelist() if name.endswith(".py")])
    return scratch / "ascend"
