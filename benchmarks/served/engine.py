"""Runs a model in vLLM's engine on a CPU and saves the log-probabilities of given tokens, in vLLM's environment.

TOKENS is a JSON list of token lists. For each line of S tokens, OUT holds `prefill.N`, float32 `[S - 1, V]`: row r is the
distribution of token r + 1. With --decode it also holds `decoded.N`, the rows from S // 2 on, each of them computed in a
step of one token that reads the KV cache.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine in this process, where the stand-ins are
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ["VLLM_PLUGINS"] = ""  # the platform stays the CPU, also with vLLM-Ascend, which is a plugin, on sys.path

import torch
from safetensors.torch import save_file
from vllm import LLM, SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

AT_ONCE = 4


class Forced(AdapterLogitsProcessor):
    """Lets a request choose only the tokens given to it, one after the other."""

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> Any:
        tokens = (params.extra_args or {}).get("tokens")
        if tokens is None:
            return None

        def force(chosen: list[int], logits: torch.Tensor) -> torch.Tensor:
            only = torch.full_like(logits, float("-inf"))
            only[tokens[len(chosen)]] = 0
            return only

        return force


def rows(logprobs: Any, positions: range) -> torch.Tensor:
    """Return the distributions at these positions, in the order of the vocabulary."""
    found = []
    for position in positions:
        span = slice(logprobs.start_indices[position], logprobs.end_indices[position])
        ids = torch.tensor(logprobs.token_ids[span])
        row = torch.empty(int(ids.max()) + 1)
        row[ids] = torch.tensor(logprobs.logprobs[span])
        found.append(row)
    return torch.stack(found)


def prefilled(llm: LLM, lines: list[list[int]]) -> list[torch.Tensor]:
    """Return `[S - 1, V]` of each line, from one forward over the line."""
    params = SamplingParams(max_tokens=1, prompt_logprobs=-1, flat_logprobs=True, detokenize=False)
    results = llm.generate([{"prompt_token_ids": line} for line in lines], params, use_tqdm=False)
    return [rows(result.prompt_logprobs, range(1, len(line))) for line, result in zip(lines, results, strict=True)]


def decoded(llm: LLM, lines: list[list[int]]) -> list[torch.Tensor]:
    """Return the rows from S // 2 on of each line, decoded token by token after a prefill of the first half."""
    halves = [len(line) // 2 for line in lines]
    params = [
        SamplingParams(
            max_tokens=len(line) - half,
            ignore_eos=True,
            logprobs=-1,
            flat_logprobs=True,
            detokenize=False,
            extra_args={"tokens": line[half:]},
        )
        for line, half in zip(lines, halves, strict=True)
    ]
    prompts = [{"prompt_token_ids": line[:half]} for line, half in zip(lines, halves, strict=True)]
    found = []
    for line, half, result in zip(lines, halves, llm.generate(prompts, params, use_tqdm=False), strict=True):
        [output] = result.outputs
        if list(output.token_ids) != line[half:]:
            raise SystemExit("The engine did not decode the given tokens.")
        # The first generated token is chosen by the prefill.
        found.append(rows(output.logprobs, range(1, len(line) - half)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("tokens", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ascend", type=Path, help="folder that holds vllm_ascend, whose code then runs")
    parser.add_argument("--quantization")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--kv-cache-dtype", default="auto")
    parser.add_argument("--decode", action="store_true")
    options = parser.parse_args()
    lines = json.loads(options.tokens.read_text())
    if options.ascend:
        import ascend_platform

        ascend_platform.install(options.ascend)
    longest = max(map(len, lines)) + 1
    llm = LLM(
        options.model,
        quantization=options.quantization,
        dtype=options.dtype,
        kv_cache_dtype=options.kv_cache_dtype,
        skip_tokenizer_init=True,
        enforce_eager=True,
        enable_prefix_caching=False,
        max_model_len=longest,
        max_num_seqs=AT_ONCE,
        max_num_batched_tokens=AT_ONCE * longest,  # no prompt in chunks
        max_logprobs=-1,
        logprobs_mode="raw_logprobs",
        logits_processors=[Forced],
    )
    found: dict[str, torch.Tensor] = {}
    for start in range(0, len(lines), AT_ONCE):
        batch = lines[start : start + AT_ONCE]
        measured = {"prefill": prefilled(llm, batch)} | ({"decoded": decoded(llm, batch)} if options.decode else {})
        for name, tensors in measured.items():
            found |= {f"{name}.{start + index:06}": tensor for index, tensor in enumerate(tensors)}
    save_file(found, options.out)


if __name__ == "__main__":
    main()
