from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fa3cli.exports.verification import verify_export
from tests.exports.exports import Export, build_for, edited


def no_config(export: Export) -> None:
    (export.folder / "config.json").unlink()


def truncated_config(export: Export) -> None:
    (export.folder / "config.json").write_text('{"hidden_size": 32')


def patched_auto_map(export: Export) -> None:
    export.config["auto_map"] = {"AutoModelForCausalLM": "modeling_llama_fa3.LlamaForCausalLM"}


def own_code_missing(export: Export) -> None:
    export.config["auto_map"] = {"AutoConfig": "configuration_own.OwnConfig"}


@pytest.mark.parametrize(
    ("check", "mutation"),
    [
        ("config", no_config),
        ("config", truncated_config),
        ("config", edited(lambda export: export.config.pop("torch_dtype"))),
        ("config", edited(lambda export: export.config.update(dtype="bfloat16"))),
        ("config", edited(lambda export: export.config.update(torch_dtype="int8"))),
        ("config", edited(lambda export: export.config.update(num_attention_heads=0))),
        ("config", edited(lambda export: export.config.update(hidden_size="32"))),
        ("config-auto-map", edited(patched_auto_map)),
        ("remote-code", edited(own_code_missing)),
        ("quantization-config", edited(lambda export: export.config.update(quantization_config={"bits": 8}))),
    ],
)
def test_a_mutation_is_found_by_one_check(check: str, mutation: Callable[[Export], None], found_by: Callable) -> None:
    [finding] = found_by(check, mutation)
    assert "config.json" in finding.subject + finding.message


def test_a_missing_quantize_gives_a_warning(found_by: Callable) -> None:
    found_by("config-quantize", edited(lambda export: export.config.update(quantize=None)), "warning")


def test_existing_code_and_code_of_other_repositories_are_accepted(export: Export) -> None:
    own_code_missing(export)
    export.config["auto_map"]["AutoModel"] = ["someone/model--modeling_own.OwnModel", None]
    export.save()
    (export.folder / "configuration_own.py").touch()
    assert verify_export(export.folder).ok


def test_a_complete_quantization_config_is_accepted(export: Export) -> None:
    export.config["quantization_config"] = export.description
    export.save()
    assert verify_export(export.folder).ok


def test_missing_code_of_the_tokenizer_is_found(found_by: Callable) -> None:
    def mutation(export: Export) -> None:
        text = '{"auto_map": {"AutoTokenizer": ["tokenization_own.OwnTokenizer", null]}}'
        (export.folder / "tokenizer_config.json").write_text(text)

    [finding] = found_by("remote-code", mutation)
    assert finding.subject == "tokenization_own.py" and "tokenizer_config.json" in finding.message


def test_missing_imports_of_the_code_are_found(found_by: Callable) -> None:
    def mutation(export: Export) -> None:
        own_code_missing(export)
        export.save()
        (export.folder / "configuration_own.py").write_text("from .helpers_own import x\nfrom . import other\n")
        (export.folder / "helpers_own.py").write_text("from .configuration_own import y\nfrom .gone import z\n")

    [finding] = found_by("remote-code", mutation)
    assert finding.subject == "gone.py" and "helpers_own.py imports it" in finding.message


def test_code_that_cannot_be_parsed_is_ignored(export: Export) -> None:
    own_code_missing(export)
    export.save()
    (export.folder / "configuration_own.py").write_bytes(b"from \x00\xff")
    assert verify_export(export.folder).ok


@pytest.mark.parametrize(
    ("target", "severity"), [("modelslim", "warning"), ("mindie", "error"), ("vllm-ascend", "error")]
)
def test_no_ascend_engine_serves_float32(target: str, severity: str, tmp_path) -> None:
    build_for(target, tmp_path, torch.float32)
    found = {finding.check: finding.severity for finding in verify_export(tmp_path, [target]).findings}
    assert found["kernel-dtype"] == severity
    assert [check for check, found in found.items() if found == "error"] == ["kernel-dtype"] * (severity == "error")
