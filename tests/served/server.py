"""Starts vLLM's HTTP server on 127.0.0.1, and ends it with all its processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

__all__ = ["prompt_log_probabilities", "serving"]

_START, _END = 300, 60  # seconds that the server gets


@contextmanager
def serving(python: Path, folder: Path, log: Path) -> Iterator[str]:
    """Serve an export with `python -m vllm.entrypoints.openai.api_server`; yield the address of its completions."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--served-model-name", "export"]
    options = ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "512", "--enforce-eager"]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_PLUGINS": "", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as output:
        # A session of its own: the server starts further processes, and all are ended together.
        process = subprocess.Popen(
            [*command, *options], stdout=output, stderr=output, env=os.environ | settings, start_new_session=True
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1/completions"
    finally:
        _end(process)


def prompt_log_probabilities(address: str, tokens: Sequence[int]) -> list[float]:
    """Return the log-probabilities of a prompt's tokens, from the second on."""
    asked = {"model": "export", "prompt": list(tokens), "max_tokens": 1, "echo": True, "logprobs": 1}
    request = Request(address, json.dumps(asked).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=120) as answer:
        found: list[float] = json.load(answer)["choices"][0]["logprobs"]["token_logprobs"]
    return found[1 : len(tokens)]


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START
    while time.monotonic() < end and process.poll() is None:
        try:
            urlopen(address, timeout=5).close()
            return
        except (URLError, OSError):
            time.sleep(1)
    raise RuntimeError(f"vLLM did not start: {log.read_text(errors='replace')[-3000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a session's processes, by force if they do not end in time."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(_END)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    process.wait(_END)
