"""Tests what engines refuse and warn of, and that the table in the docs is made from the declaration."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fa3cli.exports.limits import LIMITS, refusals, warnings
from fa3cli.exports.target_names import TARGET_NAMES
from fa3cli.exports.targets import TARGETS
from tests.exports.limits_table import DOCUMENT, with_table
from tests.exports.targets.made import CONFIG, LINEARS, selection, without

NAMES = [f"{name}.weight" for name in LINEARS]
ALL = dict.fromkeys(LINEARS, "W8A8")
EXPERTS = [f"model.layers.0.mlp.experts.{expert}.down_proj" for expert in range(2)]


def test_target_names_have_one_order() -> None:
    assert tuple(TARGETS) == TARGET_NAMES


def test_every_limit_names_known_targets() -> None:
    assert all(limit.says and set(limit.says) <= set(TARGET_NAMES) for limit in LIMITS.values())


def test_the_table_in_the_docs_is_made_from_the_limits() -> None:
    text = DOCUMENT.read_text()
    assert "<!-- limits -->" in text
    assert with_table(text) == text


@pytest.mark.parametrize(
    ("changes", "refusing"),
    [
        ({}, set()),
        ({"fa_layers": 0}, set()),
        ({"fa_layers": 1}, {"mindie", "vllm"}),
        ({"quantized": without("v_proj")}, {"mindie", "vllm-ascend", "vllm"}),
        ({"quantized": without("gate_proj")}, {"mindie", "vllm-ascend", "vllm"}),
        ({"quantized": without("gate_proj", "up_proj", "down_proj")}, set()),
        ({"may_split": True}, {"mindie", "vllm-ascend", "vllm"}),
        ({"mm_tensor": True}, {"mindie", "vllm-ascend", "mindie-sd"}),
        ({"names": ["model.layers.0.self_attn.qkv.weight"]}, {"vllm-ascend"}),
        ({"names": ["model.layers.0.self_attn.qkv.weight"], "fa_layers": 0}, set()),
        ({"quantized": {}}, {"vllm"}),
        ({"quantized": {}, "fa_layers": 0}, {"vllm", "mindie-sd"}),
        ({"quantized": {"model.layers.0.mlp.experts.0.up_proj": "W8A8"}}, {"vllm", "vllm-ascend"}),
        ({"quantized": ALL | {LINEARS[0]: "W8A8_DYNAMIC"}}, {"mindie", "vllm-ascend", "vllm"}),
        ({"linears": EXPERTS, "quantized": dict.fromkeys(EXPERTS, "W8A8_DYNAMIC")}, set()),
        ({"linears": EXPERTS, "quantized": {EXPERTS[0]: "W8A8_DYNAMIC"}}, {"vllm", "vllm-ascend"}),
        ({"head": LINEARS[-1]}, {"vllm"}),
        ({"head": "lm_head"}, set()),
        ({"dtype": "float32"}, {"mindie", "vllm-ascend"}),
    ],
)
def test_an_engine_refuses_what_it_cannot_load(changes: dict[str, Any], refusing: set[str]) -> None:
    found = {name for name in TARGET_NAMES if list(refusals(name, selection(**changes)))}
    assert found == refusing
    for name in found:
        for reason, hint in refusals(name, selection(**changes)):
            assert reason and hint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"fa_layers": 1}, ["MindIE-LLM 3.0 refuses"]),
        ({"quantized": without("v_proj")}, ["half-float group"]),
        ({"mm_tensor": True}, ["one weight scale per linear"]),
        ({"wraps_norms": True}, [".module."]),
        ({"config": CONFIG | {"head_dim": 64}}, ["head_dim is 64"]),
        ({"config": CONFIG | {"num_key_value_heads": 4}}, ["at tensor parallel 8;"]),
        ({"config": CONFIG | {"num_attention_heads": 28}}, ["28 attention heads at tensor parallel 8;"]),
    ],
)
def test_modelslim_only_warns(changes: dict[str, Any], words: list[str]) -> None:
    first, *found = list(warnings("modelslim", selection(**changes)))
    assert "FA3 as FAQuant" in first  # which vLLM-Ascend does not read
    assert len(found) == len(words)
    assert all(word in warning for word, warning in zip(words, found))


@pytest.mark.parametrize(
    "changes",
    [
        {"fa_layers": 0},
        {"config": CONFIG | {"head_dim": 64}, "fa_layers": 0},
        {"config": CONFIG | {"kv_lora_rank": 512}},
    ],
)
def test_modelslim_without_fa3_in_dense_attention_gives_no_warning(changes: dict[str, Any]) -> None:
    assert not list(warnings("modelslim", selection(**changes)))


def test_the_warning_about_fa3_names_engines_and_another_target() -> None:
    [found] = warnings("modelslim", selection())
    for word in ("MindIE-LLM 3.0", "mindie-turbo 2.0rc1", "vLLM-Ascend (0.18", "target vllm-ascend", "C8"):
        assert word in found
    assert not list(warnings("mindie", selection()))


def test_verdicts_name_an_engine_with_its_version() -> None:
    verdicts = [verdict.why for limit in LIMITS.values() for verdict in limit.says.values() if verdict.why]
    named = re.compile(r"(MindIE-LLM|mindie-turbo|vLLM-Ascend|vLLM|MindIE-SD) .*?\d")
    assert not [why for why in verdicts if not named.search(why)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"fa_layers": 1}, ["0.18"]),
        ({"dtype": "float16"}, ["casts the scales"]),
        ({"dtype": "float16", "fa_layers": 0}, []),
        ({"config": CONFIG | {"head_dim": 80}}, ["multiples of 32"]),
    ],
)
def test_vllm_ascend_gives_warnings(changes: dict[str, Any], words: list[str]) -> None:
    found = list(warnings("vllm-ascend", selection(**changes)))
    assert len(found) == len(words) and all(word in warning for word, warning in zip(words, found))


@pytest.mark.parametrize(("layers", "count"), [(0, 0), (1, 1), (2, 1)])
def test_mindie_sd_warns_of_versions_without_int8_attention(layers: int, count: int) -> None:
    found = list(warnings("mindie-sd", selection(fa_layers=layers)))
    assert len(found) == count and all("3.x ignores FAQuant" in warning for warning in found)
