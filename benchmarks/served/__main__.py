"""Measures what is lost between a float model and its exports, both served by vLLM's engine on a CPU.

Exports for target vllm run as they are. Exports for vllm-ascend are loaded and run by vLLM-Ascend's own code; only the
operators of an NPU are stand-ins (`ascend_platform`). Each is run twice: over whole lines (prefill), and with the second
half of each line decoded token by token, which reads the KV cache. KL is in nats per token.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer

from benchmarks.served.served_model import Engine, Served, agreement, unpacked
from fa3cli import api, patching
from fa3cli.errors import Fa3Error

HEADER = """
| served | KL, prefill | top-1 | KL of second halves, prefill | KL, decoded | top-1 | fa3 verify --against |
|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Model:
    """A float model, its patched copy, and the texts."""

    folder: Path
    patched: Path
    calib: Path
    text: Path
    max_length: int
    lines: list[list[int]]


def prepared(folder: Path, calib: Path, text: Path, lines: int, scratch: Path) -> Model:
    """Patch a copy of the model and tokenize the lines, cut to the positions that an engine serves."""
    patched = Path(shutil.copytree(folder, scratch / "patched"))
    patching.patch(patched)
    length = AutoConfig.from_pretrained(folder).max_position_embeddings - 1  # and one token to generate
    kept = text.read_text().splitlines()[:lines]
    scratch.joinpath("text.jsonl").write_text("".join(f"{line}\n" for line in kept))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    parsed = [json.loads(line) for line in kept]
    texts = [line["text"] if "text" in line else line["inputs_pretokenized"] for line in parsed]
    ids = [tokenizer(line).input_ids[:length] for line in texts]
    return Model(folder, patched, calib, scratch / "text.jsonl", length, [line for line in ids if len(line) > 3])


def exports(model: Model, scratch: Path, ascend: bool) -> Iterator[Served]:
    """Calibrate and export the model in each way, and yield how each export is served."""

    def quantize(name: str, *targets: str, **options: object) -> Path:
        api.quantize(
            model.patched, scratch / name, calib=model.calib, max_length=512, target=targets, resume="never", **options
        )
        return scratch / name

    both = ("vllm", "vllm-ascend")
    static = quantize("static", *both, fa=False)
    dynamic = quantize("dynamic", *both, fa=False, scheme="w8a8-dynamic")
    yield Served("vllm w8a8", static / "vllm")
    yield Served("vllm w8a8, fp8 cache without scales", static / "vllm", kv_cache_dtype="fp8", simulated=False)
    for scheme in ("tensor", "attn_head"):
        yield Served(f"vllm w8a8, --kv-cache-scheme {scheme}", quantize(scheme, "vllm", kv_cache_scheme=scheme))
    yield Served("vllm w8a8-dynamic", dynamic / "vllm")
    if ascend:
        mix = quantize("mix", "vllm-ascend", fa=False, scheme="w8a8-mix")
        c8 = quantize("c8", "vllm-ascend")
        yield Served("float model, attention of vLLM-Ascend", model.folder, ascend=True, quantized=False)
        yield Served("vllm-ascend w8a8", static / "vllm-ascend", ascend=True)
        yield Served("vllm-ascend w8a8-dynamic", dynamic / "vllm-ascend", ascend=True)
        yield Served("vllm-ascend w8a8-mix", mix, ascend=True)
        yield Served("vllm-ascend w8a8 + C8", c8, ascend=True)


def verified(model: Model, served: Served) -> str:
    """Return the KL divergence that fa3 itself reports for an export, `-` if it reports none."""
    if not (served.quantized and served.simulated):
        return "-"
    try:
        found = api.compare(served.folder, model.patched, model.text, max_length=model.max_length)
    except Fa3Error:
        return "-"
    return f"{found.kl_divergence:.2e}"


def measure(model: Model, engine: Engine, scratch: Path) -> Iterator[str]:
    """Yield the rows of the table, one per export."""
    expected = engine.log_probabilities(Served("float", model.folder, quantized=False), model.lines)
    for served in exports(model, scratch, engine.ascend is not None):
        found = engine.log_probabilities(served, model.lines)
        kl, top1 = agreement(expected.prefill, found.prefill)
        half, _ = agreement(expected.halves, found.halves)
        decoded, top1_decoded = agreement(expected.decoded, found.decoded)
        yield (
            f"| {served.name} | {kl:.2e} | {top1:.2%} | {half:.2e} | {decoded:.2e} | {top1_decoded:.2%} "
            f"| {verified(model, served)} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.served", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--vllm", required=True, type=Path, metavar="PYTHON", help="python of an environment with vLLM")
    parser.add_argument("--ascend", type=Path, metavar="WHEEL_OR_FOLDER", help="vllm-ascend, not installed")
    parser.add_argument("--calib", type=Path)
    parser.add_argument("--eval", type=Path)
    parser.add_argument("--lines", type=int, default=64)
    options = parser.parse_args()
    for folder in options.folders:
        with tempfile.TemporaryDirectory() as name:
            scratch = Path(name)
            engine = Engine(options.vllm, unpacked(options.ascend, scratch) if options.ascend else None, scratch)
            calib, text = options.calib or folder / "calib.jsonl", options.eval or folder / "eval.jsonl"
            model = prepared(folder, calib, text, options.lines, scratch)
            tokens = sum(len(line) - 1 for line in model.lines)
            print(f"\n{folder.name}, {len(model.lines)} lines, {tokens} tokens\n{HEADER}", flush=True)
            for row in measure(model, engine, scratch):
                print(row, flush=True)


if __name__ == "__main__":
    main()
