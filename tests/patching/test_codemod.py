import ast
import importlib.util
import re
import textwrap
from pathlib import Path

import pytest

from fa3cli.errors import ConflictError, Fa3Error, UnsupportedError
from fa3cli.patching.codemod import list_source, patch_source
from fa3cli.patching.edits import reverse
from tests.patching.samples import CACHE, INTERFACE, RIGHT, marked, modeling

EXPECTED = '''
from fa3cli.fa_quantizer import FAQuantizer
from fa3cli import logger

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel


class Attention(nn.Module):
    def __init__(self, config, layer_idx):
        super().__init__()
        self.config = config
        self.fa_quantizer = FAQuantizer(self.config, logger)

    def forward(self, x, mask, past=None, positions=None):
        shape = (*x.shape[:-1], -1, self.head_dim)
        a = self.q_proj(x).view(shape).transpose(1, 2)
        b = self.k_proj(x).view(shape).transpose(1, 2)
        c = self.v_proj(x).view(shape).transpose(1, 2)
        a, b = rotate(a, b, *positions)
        if past is not None:
            b, c = past.update(b, c, self.layer_idx)

        a = self.fa_quantizer.quant(a, qkv="q")
        b = self.fa_quantizer.quant(b, qkv="k")
        c = self.fa_quantizer.quant(c, qkv="v")
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        out, weights = attend(self, a, b, c, mask, scaling=self.scaling)
        return self.o_proj(out.reshape(*x.shape[:-1], -1)), weights
'''.lstrip()  # fmt: skip


def installed_files() -> list[Path]:
    spec = importlib.util.find_spec("transformers")
    models = Path(spec.origin).parent / "models" if spec else Path("nowhere")
    return [each for each in sorted(models.glob("*/modeling_*.py")) if "_tf_" not in each.name and "_flax_" not in each.name]


def test_a_whole_file_comes_out_as_written_here() -> None:
    assert patch_source(marked(INTERFACE)[0]).text == EXPECTED


@pytest.mark.parametrize("family", RIGHT)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_byte_that_is_not_ours_stays(family: str, newline: str) -> None:
    source = "\ufeff" + marked(RIGHT[family])[0].replace("\n", newline)
    patched = patch_source(source)
    assert reverse(patched.text, patched.edits) == source
    assert patched.text.count(newline) == patched.text.count("\n")
    assert patched.text.count("self.fa_quantizer.quant(") == 3


def test_patching_twice_is_recognised() -> None:
    with pytest.raises(ConflictError, match="fa_quantizer already"):
        patch_source(EXPECTED)


def test_siblings_are_patched_and_share_one_quantizer() -> None:
    text = marked(INTERFACE)[0] + textwrap.dedent("""
        class SdpaAttention(Attention):
            def __init__(self, *args):
                super().__init__(*args)

            def forward(self, x, past):
                a, b, c = self.project(x)
                b, c = past.update(b, c)
                return F.scaled_dot_product_attention(a, b, c)

        class WrappedAttention(Attention):
            def forward(self, x):
                return super().forward(x)
    """)
    for asked in ((), ("Attention",), ("SdpaAttention",)):
        patched = patch_source(text, attention=asked)
        assert [each.name for each in patched.attention] == ["Attention", "SdpaAttention"]
        assert patched.text.count("FAQuantizer(self.config, logger)") == 1
        assert patched.text.count("self.fa_quantizer.quant(") == 6


def test_a_flash_sibling_that_cannot_be_patched_is_left_out_with_a_warning_unless_asked_for() -> None:
    text = marked(INTERFACE)[0] + textwrap.dedent("""
        class FlashAttention(Attention):
            def forward(self, x, past):
                return _flash_attention_forward(x, x, x)
    """)
    patched = patch_source(text, attention=["Attention"])
    assert [each.name for each in patched.attention] == ["Attention"]
    assert "FlashAttention is not patched (modeling.py:" in patched.warnings[0]
    with pytest.raises(UnsupportedError, match="arguments of the function"):
        patch_source(text, attention=["FlashAttention"])


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("self.config = config", "self.width = config.width", "FAQuantizer(config, logger)"),
        ("        self.config = config", "        if config:\n            self.config = config", "(self.config, logger)"),
    ],
)  # fmt: skip
def test_the_quantizer_gets_the_config_there_is(before: str, after: str, expected: str) -> None:
    assert expected in patch_source(marked(INTERFACE)[0].replace(before, after)).text


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("config, layer_idx", "width, layer_idx", "no config"),
        ("        self.config = config", "        self.config = config\n        if layer_idx:\n            return", "early"),
    ],
)  # fmt: skip
def test_an_init_without_a_place_for_the_quantizer_is_refused(before: str, after: str, reason: str) -> None:
    text = marked(INTERFACE)[0].replace(before, after)
    with pytest.raises(UnsupportedError, match=rf"modeling\.py:\d+: .*{reason}"):
        patch_source(text.replace("self.config = config", "self.w = 1") if reason == "no config" else text)


def test_models_stay_native_where_transformers_asks() -> None:
    text = marked(INTERFACE)[0] + "\nclass Base(PreTrainedModel): ...\nclass Model(Base): ..."
    patched = patch_source(text, native_class=True)
    assert patched.text.endswith(
        '\n\n\nif hasattr(Base, "is_custom_code"):\n    Base.is_custom_code = classmethod(lambda cls: False)\n'
    )
    assert reverse(patched.text, patched.edits) == text


MODEL = "class Model(PreTrainedModel):\n    def __init__(self, config):\n        self.inner = {}\n    def forward(self): ...\n"


@pytest.mark.parametrize(
    ("inner", "asked", "message", "hint"),
    [
        ("Attention(config)", ["Missing"], "no attention class Missing", r"Attention \(6\)"),
        ("Attention(config), Other(config)", [], "several kinds of attention", "--attention"),
        ("AutoModel.from_config(config)", [], "composite", None),
        ("None", [], "no softmax attention", None),
        ("None", ["Attention"], "no attention class Attention", "none"),
    ],
)
def test_a_choice_that_is_not_clear_is_refused(inner: str, asked: list[str], message: str, hint: str | None) -> None:
    other = modeling(CACHE + "return eager_attention_forward(self, a, b, c)").replace("class Attention", "class Other")
    text = marked(INTERFACE)[0] + other + MODEL.format(f"({inner})")
    with pytest.raises(UnsupportedError, match=message) as caught:
        patch_source(text, architecture="Model", attention=asked)
    assert hint is None or re.search(hint, caught.value.hint)


def test_an_architecture_the_file_has_not_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no class Missing"):
        patch_source(marked(INTERFACE)[0], architecture="Missing")


@pytest.mark.skipif(not installed_files(), reason="transformers is not installed")
@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.versions)])
def test_every_installed_modeling_file_is_patched_reversibly_or_refused(step: int) -> None:
    patched = 0
    for path in installed_files()[::step]:
        data = path.read_bytes()
        try:
            result = patch_source(data, name=path.name, package=f"transformers.models.{path.parent.name}")
        except Fa3Error as error:
            assert str(error).startswith(path.name), error
            continue
        patched += 1
        compile(result.text, path.name, "exec")
        assert reverse(result.text, result.edits).encode() == data
        relative = [node for node in ast.walk(ast.parse(result.text)) if getattr(node, "level", 0)]
        assert not relative
        calls = result.text.count("self.fa_quantizer.quant(")
        assert calls == 3 * len(result.attention) > 0
    assert patched > len(installed_files()[::step]) // 4


def test_list_source_names_lines_states_and_problems() -> None:
    text = marked(INTERFACE)[0]
    (found,) = list_source(text)
    assert (found.name, found.line, found.states, found.problem) == ("Attention", 6, ("a", "b", "c"), None)
    (refused,) = list_source(text.replace("attend(self, a, b, c", "attend(self, a, b, b"), name="m.py")
    assert refused.states is None
    assert refused.problem.startswith("m.py:")
