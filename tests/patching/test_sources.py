import ast
import importlib.util
from pathlib import Path

import pytest

from fa3cli.errors import ConflictError, Fa3Error
from fa3cli.patching.edits import reverse
from fa3cli.patching.sources import list_source, patch_source
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
    return [
        path for path in sorted(models.glob("*/modeling_*.py")) if "_tf_" not in path.name and "_flax_" not in path.name
    ]


def test_a_patched_file_equals_the_expected_text() -> None:
    assert patch_source(marked(INTERFACE)[0]).text == EXPECTED


@pytest.mark.parametrize("family", RIGHT)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_all_other_bytes_are_kept(family: str, newline: str) -> None:
    source = "\ufeff" + marked(RIGHT[family])[0].replace("\n", newline)
    patched = patch_source(source)
    assert reverse(patched.text, patched.edits) == source
    assert patched.text.count(newline) == patched.text.count("\n")
    assert patched.text.count("self.fa_quantizer.quant(") == 3


def test_calls_inside_expressions_are_insertions_only() -> None:
    source = modeling(CACHE + "out = eager_attention_forward(self, a, b, repeat_kv(c, 2), mask)\nreturn out, (b, c)")
    patched = patch_source(source)
    assert (
        'out = eager_attention_forward(self, self.fa_quantizer.quant(a, qkv="q"), '
        'self.fa_quantizer.quant(b, qkv="k"), repeat_kv(self.fa_quantizer.quant(c, qkv="v"), 2), mask)'
    ) in patched.text
    assert all(not edit.removed or "..." in edit.removed for edit in patched.edits)
    assert reverse(patched.text, patched.edits) == source
    (listed,) = list_source(source)
    assert (listed.states, listed.place, listed.inside) == (("a", "b", "c"), 19, True)


def test_patching_twice_is_recognised() -> None:
    with pytest.raises(ConflictError, match="already has a fa_quantizer"):
        patch_source(EXPECTED)


def test_patched_models_are_not_custom_code() -> None:
    text = marked(INTERFACE)[0] + "\nclass Base(PreTrainedModel): ...\nclass Model(Base): ..."
    patched = patch_source(text, native_class=True)
    assert patched.text.endswith(
        '\n\n\nif hasattr(Base, "is_custom_code"):\n    Base.is_custom_code = classmethod(lambda cls: False)\n'
    )
    assert reverse(patched.text, patched.edits) == text


@pytest.mark.skipif(not installed_files(), reason="transformers is not installed")
@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.sweeps)])
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
        assert calls % 3 == 0 and calls >= 3 * len(result.attention) > 0
    assert patched > len(installed_files()[::step]) // 4


def test_list_source_names_lines_states_and_problems() -> None:
    text = marked(INTERFACE)[0]
    (found,) = list_source(text)
    assert (found.name, found.line, found.states, found.problem) == ("Attention", 6, ("a", "b", "c"), None)
    (refused,) = list_source(text.replace("attend(self, a, b, c", "attend(self, a, b, b"), name="m.py")
    assert refused.states is None
    assert refused.problem.startswith("m.py:")
