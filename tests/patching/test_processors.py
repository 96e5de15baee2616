"""Tests that attention modules of diffusion transformers get a quantizer where they are created, or are refused."""

from __future__ import annotations

import pytest

from fa3cli.errors import UnsupportedError
from fa3cli.patching.rules.rule import Rule, Rules
from fa3cli.patching.sources import patch_source

PROCESSOR = """
import torch
from torch import nn

class Processor:
    def __call__(self, attn, states):
        query = attn.to_q(states).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        key = attn.to_k(states).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        value = attn.to_v(states).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        return F.scaled_dot_product_attention(query, key, value)

"""
OTHER = PROCESSOR[PROCESSOR.index("class") :].replace("class Processor", "class Other")
LAST = OTHER.replace(".transpose(1, 2)", "").replace("F.scaled_dot_product_attention", "dispatch_attention_fn")
BLOCK = """
class Block(nn.Module):
    def __init__(self, size, heads):
        super().__init__()
        self.attn = Attention(size, heads, processor=Processor())
"""
MODULE = """
class OwnAttention(nn.Module):
    def __init__(self, size, heads, processor=None):
        super().__init__()
        self.inner_dim, self.heads = size, heads
        self.processor = processor or Processor()

    def forward(self, states):
        return self.processor(self, states)
"""


def patched(text: str, **options: object) -> str:
    return patch_source(text, name="file.py", package=None, **options).text


def test_a_module_from_another_file_gets_a_quantizer_after_its_creation() -> None:
    text = patched(PROCESSOR + BLOCK)
    assert (
        "        self.attn = Attention(size, heads, processor=Processor())\n"
        "        self.attn.fa_quantizer = FAQuantizer(SimpleNamespace(num_attention_heads=self.attn.heads, "
        "hidden_size=self.attn.inner_dim, num_key_value_heads=self.attn.heads), logger)\n"
    ) in text


def test_fewer_key_heads_are_passed_to_the_quantizer() -> None:
    text = patched(PROCESSOR + BLOCK.replace("heads, proc", "heads, kv_heads=2, proc"))
    assert "num_key_value_heads=self.attn.inner_kv_dim * self.attn.heads // self.attn.inner_dim" in text


def test_a_module_of_the_same_file_gets_a_quantizer_in_its_class() -> None:
    text = patched(PROCESSOR + MODULE + BLOCK.replace("Attention", "OwnAttention"))
    assert text.count("FAQuantizer(SimpleNamespace(") == 1
    assert "        self.fa_quantizer = FAQuantizer(SimpleNamespace(num_attention_heads=self.heads, hidden" in text


def test_an_unused_processor_is_not_patched() -> None:
    found = patch_source(PROCESSOR + OTHER + BLOCK, name="file.py", package=None)
    assert [attention.name for attention in found.attention] == ["Processor"]
    assert found.warnings == ("Other is not patched: the model itself does not use it",)


def test_a_file_with_only_processors_is_patched_completely() -> None:
    found = patch_source(PROCESSOR + OTHER + MODULE.replace(" or Processor()", ""), name="file.py", package=None)
    assert [attention.name for attention in found.attention] == ["Processor", "Other"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BLOCK.replace(", processor=Processor()", "") + BLOCK.replace("Block", "B"), "made with the default processor"),
        (BLOCK + BLOCK.replace("Block", "B").replace("Processor()", "Foreign()"), "made with Foreign, which can't be"),
        (BLOCK.replace("self.attn = Attention(", "self.attn = wrap(Attention(").replace("())", "()))"), "inside an expr"),
        (LAST + BLOCK + BLOCK.replace("Block", "B").replace("Processor", "Other"), "lay out their states differently"),
    ],
)  # fmt: skip
def test_a_file_that_would_be_patched_partly_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"file.py:\d+: .*{reason}"):
        patched(PROCESSOR + text)


def test_an_idle_block_may_not_use_a_patched_processor() -> None:
    rule = Rule(file="mine.toml", digest="", match=("B",), idle="a reason")
    with pytest.raises(UnsupportedError, match="mine.toml: B is marked idle, but it shares a processor"):
        patched(PROCESSOR + BLOCK + BLOCK.replace("Block", "B"), rules=Rules((rule,)))
    text = patched(
        PROCESSOR + BLOCK + BLOCK.replace("Block", "B").replace(", processor=Processor()", ""),
        rules=Rules((rule,)),
    )
    assert text.count("FAQuantizer(SimpleNamespace(") == 1
