"""Tests that a folder patched by hand after the guide is accepted, or refused with the wrong line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fa3cli.errors import ConflictError, UnsupportedError
from fa3cli.exports.companions import companions
from fa3cli.models.untrusted.trust import require_known_code
from fa3cli.patching import patch, plan, status, undo, unpatched_config
from fa3cli.patching.origins.hand_made import check_hand_made
from fa3cli.patching.origins.installed import Installed, installed_transformers
from fa3cli.patching.source import parse
from fa3cli.patching.sources import patch_source
from tests.patching.conftest import snapshot

ROOT = Path(__file__).parents[3]
OLD = sorted(ROOT.glob(".venvs/4.43.1/lib/python*/site-packages/transformers"))
IMPORTS = """from msmodelslim.pytorch.llm_ptq.llm_ptq_tools.fa_quant import FAQuantizer
from msmodelslim import logger
"""
MAKES = "        self.fa_quantizer = FAQuantizer(self.config, logger)\n"
CALLS = [
    f'        {name}_states = self.fa_quantizer.quant({name}_states, qkv="{name[0]}")\n'
    for name in ("query", "key", "value")
]
CACHE = r"\.update\([^)]*\)\n"


def below(text: str, owner: str, pattern: str, *lines: str) -> str:
    """Insert lines below the first match of a pattern in a class."""
    start = re.compile(rf"^class {owner}\b", re.MULTILINE).search(text).start()
    at = re.compile(pattern).search(text, start).end()
    return text[:at] + "".join(lines) + text[at:]


def by_hand(text: str, *owners: str, init: str = r"self\.config = config\n", calls: list[str] = CALLS) -> str:
    """A modeling file with the lines of the guide."""
    text = below(text, owners[0], init, MAKES)
    for owner in owners:
        text = below(text, owner, CACHE, *calls)
    return IMPORTS + text


def check(installed: Installed, model_type: str, hand: str, library: str | None = None) -> None:
    file = installed.modeling_file(model_type)
    text = library or file.path.read_text()
    check_hand_made(parse(hand, "hand.py"), parse(text, str(file.path)), file.package, {})


def text_of(installed: Installed, model_type: str) -> str:
    return installed.modeling_file(model_type).path.read_text()


@pytest.fixture
def qwen2() -> str:
    return text_of(installed_transformers(), "qwen2")


@pytest.mark.parametrize("model_type", ["qwen2", "llama", "mistral", "qwen3"])
def test_the_lines_of_the_guide_are_accepted(model_type: str) -> None:
    installed = installed_transformers()
    owner = re.search(r"class (\w+Attention)\(", text := text_of(installed, model_type))[1]
    check(installed, model_type, by_hand(text, owner))


@pytest.mark.skipif(not OLD, reason="transformers 4.43.1 is not set up (make environments)")
@pytest.mark.parametrize("model_type", ["Llama", "Qwen2"])
@pytest.mark.parametrize("kinds", [["Attention"], ["SdpaAttention"], ["Attention", "SdpaAttention"]])
def test_in_old_versions_any_attention_class_may_have_the_lines(model_type: str, kinds: list[str]) -> None:
    installed = Installed(OLD[0], "4.43.1")
    text = text_of(installed, model_type.lower())
    owners = [f"{model_type}{kind}" for kind in kinds]
    hand = below(text, f"{model_type}Attention", r"self\.config = config\n", MAKES)
    for owner in owners:
        hand = below(hand, owner, CACHE, *CALLS)
    check(installed, model_type.lower(), IMPORTS + hand)


@pytest.mark.parametrize("step", [40, pytest.param(1, marks=pytest.mark.sweeps)])
def test_files_that_fa3_writes_for_msmodelslim_are_accepted(step: int) -> None:
    """The guide has no calls around expressions: a file with only such calls is refused."""
    installed, checked = installed_transformers(), 0
    for model_type in sorted(installed.causal_lms)[::step]:
        try:
            file = installed.modeling_file(model_type)
            made = patch_source(
                file.path.read_text(), name=file.path.name, package=file.package, quantizer="msmodelslim"
            )
        except UnsupportedError:
            continue
        if any(found.inside for found in made.attention):
            continue
        check(installed, model_type, made.text)
        checked += 1
    assert checked


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("FAQuantizer(self.config,", "FAQuantizer(config,"),
        lambda text: text.replace("from ...", "from transformers."),
        lambda text: text.replace("msmodelslim.pytorch.llm_ptq.llm_ptq_tools.fa_quant", "fa3cli.fa_quantizer").replace(
            "from msmodelslim import", "from fa3cli import"
        ),
        lambda text: text.replace(CALLS[0], f"\n        # ours\n{CALLS[0]}        # end\n"),
        lambda text: text.replace("".join(CALLS), "".join(reversed(CALLS))),
    ],
)
def test_changes_without_effect_are_ignored(qwen2: str, change) -> None:
    check(installed_transformers(), "qwen2", change(by_hand(qwen2, "Qwen2Attention")))


@pytest.mark.parametrize("gone", [MAKES, *CALLS])
def test_a_missing_line_is_named(qwen2: str, gone: str) -> None:
    text = by_hand(qwen2, "Qwen2Attention")
    expected = re.escape(gone.strip().replace('"', "'"))
    with pytest.raises(ConflictError, match=rf"^hand\.py:\d+: found .*, expected .{expected}") as caught:
        check(installed_transformers(), "qwen2", text.replace(gone, ""))
    assert "as the guide says" in caught.value.hint


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (r"self\.v_proj\(.*\n", "cos, sin ="),
        (r"apply_rotary_pos_emb\(.*\n", "if past_key_values is not None"),
        (r"self\.o_proj\(.*\n", "return attn_output"),
    ],
)
def test_misplaced_calls_are_named(qwen2: str, place: str, line: str) -> None:
    text = IMPORTS + below(
        below(qwen2, "Qwen2Attention", r"self\.config = config\n", MAKES), "Qwen2Attention", place, *CALLS
    )
    with pytest.raises(ConflictError, match=r"^hand\.py:\d+: ") as caught:
        check(installed_transformers(), "qwen2", text)
    number = int(re.search(r":(\d+):", str(caught.value))[1])
    lines = text.splitlines()
    first = lines.index(CALLS[0].rstrip("\n")) + 1
    assert number in range(first, first + 3) or "quant(" in str(caught.value).partition("expected")[2]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('(query_states, qkv="q")', '(key_states, qkv="q")'),
        ('(query_states, qkv="q")', '(query_states, qkv="k")'),
        ("FAQuantizer(self.config, logger)", "FAQuantizer(self.config)"),
        (IMPORTS.splitlines()[0], "import torch"),
        (IMPORTS.splitlines()[1], "import torch"),
        ("self.scaling = ", "self.scaling = 2 * "),
        ("class Qwen2MLP", "f = lambda self: self.fa_quantizer.quant(1)\nclass Qwen2MLP"),
        ("class Qwen2MLP", "fa_quantizer = None\nclass Qwen2MLP"),
        ("class Qwen2MLP", "import os\nclass Qwen2MLP"),
        ("from torch import nn", "from torch import nn as nn2"),
        (
            CALLS[0],
            "        try:\n            import x\n        except ImportError:\n            x = 0\n" + CALLS[0],
        ),
        ("class Qwen2MLP", "x = self.fa_quantizer.quant(x)\nclass Qwen2MLP"),
    ],
)
def test_any_other_change_is_named_with_its_line(qwen2: str, old: str, new: str) -> None:
    text = by_hand(qwen2, "Qwen2Attention")
    assert old in text
    with pytest.raises(ConflictError, match=r"^hand\.py:\d+: found"):
        check(installed_transformers(), "qwen2", text.replace(old, new, 1))


@pytest.fixture(params=["modeling_qwen2", "modeling_qwen2_fa3"])
def hand_made(weights: Path, qwen2: str, request: pytest.FixtureRequest) -> Path:
    """A folder patched by hand after the guide; the parameter is the name of its file."""
    (weights / f"{request.param}.py").write_text(
        by_hand(qwen2, "Qwen2Attention").replace("from ...", "from transformers.")
    )
    config = json.loads((weights / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": f"{request.param}.Qwen2ForCausalLM"}
    (weights / "config.json").write_text(json.dumps(config, indent=2))
    return weights


def test_a_folder_patched_by_hand_is_patched_and_restored_by_undo(hand_made: Path) -> None:
    before = snapshot(hand_made)
    assert plan(hand_made).result.state == "would-patch"
    result = patch(hand_made)
    assert result.files[0].origin == "installed"
    assert any("was patched by hand: it is kept" in warning for warning in result.warnings)
    assert {name: data for name, data in snapshot(hand_made).items() if name in before and name != "config.json"} == {
        name: data for name, data in before.items() if name != "config.json"
    }
    assert patch(hand_made).state == "already-patched" and status(hand_made).reproducible
    assert not unpatched_config(hand_made)["auto_map"]
    assert not [file for file in companions(hand_made) if file.suffix == ".py"]
    undo(hand_made)
    assert snapshot(hand_made) == before


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_text("changed = True\n")])
def test_a_patched_folder_no_longer_needs_the_hand_made_file(hand_made: Path, change) -> None:
    own = next(hand_made.glob("modeling_*.py"))
    patch(hand_made)
    change(own)
    assert plan(hand_made).result.state == "already-patched"
    assert status(hand_made).reproducible
    undo(hand_made)
    assert not list(hand_made.glob("*by_fa3.py")) and not (hand_made / ".fa3").exists()


def test_an_output_does_not_change_the_hand_made_folder(hand_made: Path, tmp_path: Path) -> None:
    before = snapshot(hand_made)
    patch(hand_made, output=tmp_path / "out")
    assert snapshot(hand_made) == before
    assert status(tmp_path / "out").reproducible


def test_quantize_of_a_hand_made_folder_suggests_fa3_patch(hand_made: Path) -> None:
    found = status(hand_made)
    assert found.state == "hand-patched"
    with pytest.raises(ConflictError, match="patched by hand") as caught:
        require_known_code(hand_made, found, fa=True, trusted=False)
    assert "run fa3 patch" in caught.value.hint and "trust" not in caught.value.hint


def test_a_folder_with_a_wrong_hand_made_file_is_not_changed(hand_made: Path) -> None:
    path = next(hand_made.glob("modeling_*.py"))
    path.write_text(path.read_text().replace(CALLS[1], ""))
    before = snapshot(hand_made)
    with pytest.raises(ConflictError, match=r"modeling_qwen2\w*\.py:\d+: found"):
        patch(hand_made)
    assert snapshot(hand_made) == before
