"""Runs a model in vLLM's engine on a CPU and saves the log-probabilities of given tokens, in vLLM's environment.

The file OUT holds one float32 tensor `[S - 1, V]` per line of TOKENS, a JSON list of token lists: row r is the
distribution of token r + 1. With --decode the second half of each line is decoded token by token: from row S // 2 on
every row is a step of one token that reads the KV cache.
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


def measure(llm: LLM, lines: list[list[int]], decode: bool) -> list[torch.Tensor]:
    """Return the log-probabilities of each line."""
    given = [len(line) // 2 if decode else len(line) for line in lines]
    asked = [
        SamplingParams(
            temperature=0,
            max_tokens=len(line) - prompt or 1,
            ignore_eos=True,
            prompt_logprobs=-1,
            logprobs=-1 if decode else None,
            flat_logprobs=True,
            detokenize=False,
            extra_args={"tokens": line[prompt:]} if decode else None,
        )
        for line, prompt in zip(lines, given, strict=True)
    ]
    prompts = [{"prompt_token_ids": line[:prompt]} for line, prompt in zip(lines, given, strict=True)]
    found = []
    for line, prompt, result in zip(lines, given, llm.generate(prompts, asked, use_tqdm=False), strict=True):
        parts = [rows(result.prompt_logprobs, range(1, prompt))]
        if decode:
            if list(result.outputs[0].token_ids) != line[prompt:]:
                raise SystemExit("The engine did not decode the given tokens.")
            parts.append(rows(result.outputs[0].logprobs, range(len(line) - prompt)))
        found.append(torch.cat(parts))
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
    found: list[torch.Tensor] = []
    for start in range(0, len(lines), AT_ONCE):
        found += measure(llm, lines[start : start + AT_ONCE], options.decode)
    save_file({f"{index:06}": line.contiguous() for index, line in enumerate(found)}, options.out)


if __name__ == "__main__":
    main()
