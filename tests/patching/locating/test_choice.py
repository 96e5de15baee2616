import re
import textwrap

import pytest

from fa3cli.errors import UnsupportedError
from fa3cli.patching.sources import patch_source
from tests.patching.samples import CACHE, INTERFACE, marked, modeling


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
        assert [attention.name for attention in patched.attention] == ["Attention", "SdpaAttention"]
        assert patched.text.count("FAQuantizer(self.config, logger)") == 1
        assert patched.text.count("self.fa_quantizer.quant(") == 6


def test_an_unsupported_flash_sibling_is_skipped_unless_requested() -> None:
    text = marked(INTERFACE)[0] + textwrap.dedent("""
        class FlashAttention(Attention):
            def forward(self, x, past):
                return _flash_attention_forward(x, x, x)
    """)
    patched = patch_source(text, attention=["Attention"])
    assert [attention.name for attention in patched.attention] == ["Attention"]
    assert "FlashAttention is not patched (modeling.py:" in patched.warnings[0]
    with pytest.raises(UnsupportedError, match="arguments of the function"):
        patch_source(text, attention=["FlashAttention"])


MODEL = "class Model(PreTrainedModel):\n    def __init__(self, config):\n        self.inner = {}\n    def forward(self): ...\n"
OTHER = modeling(CACHE + "return eager_attention_forward(self, a, b, c)").replace("class Attention", "class Other")
BROKEN = OTHER.replace("class Other", "class Broken").replace("self, a, b, c)", "self, a, b, b)")


def patched_of(inner: str, *asked: str) -> list[str]:
    text = marked(INTERFACE)[0] + OTHER + BROKEN + MODEL.format(f"({inner})")
    return [attention.name for attention in patch_source(text, architecture="Model", attention=asked).attention]


def test_every_attention_class_that_the_model_uses_is_patched() -> None:
    assert patched_of("Attention(config), Other(config)") == ["Attention", "Other"]
    assert patched_of("Attention(config)") == ["Attention"]
    assert patched_of("Attention(config), Other(config), Broken(config)", "Other") == ["Other"]


def test_vision_and_audio_parts_are_skipped_unless_requested() -> None:
    inner = "Attention(config), Other(config.vision_config), Broken._from_config(config=self.audio_config)"
    assert patched_of(inner) == ["Attention"]
    assert patched_of(inner, "Attention", "Other") == ["Attention", "Other"]
    with pytest.raises(UnsupportedError, match="no softmax attention"):
        patched_of("Other(config.vision_config)")


def test_parts_with_their_own_model_type_must_be_built_by_the_file() -> None:
    text = marked(INTERFACE)[0] + MODEL.format("Attention(config.eye_config)")
    patch_source(text, architecture="Model", config={"eye_config": {"model_type": "eye"}, "rope": {"base": 1}})
    patch_source(text, architecture="Model", config={"vision_config": {"model_type": "eye"}})
    with pytest.raises(UnsupportedError, match=r"composite model, and Model doesn't build its ear"):
        patch_source(text, architecture="Model", config={"ear": {"model_type": "ear"}})


@pytest.mark.parametrize(
    ("inner", "asked", "message", "hint"),
    [
        ("Attention(config)", ["Missing"], "no attention class Missing", r"Attention \(6\)"),
        ("Attention(config), Broken(config)", [], r"one tensor, b \[Broken\]", None),
        ("AutoModel.from_config(config)", [], "composite", None),
        ("None", [], "no softmax attention", None),
        ("None", ["Attention"], "no attention class Attention", "none"),
    ],
)
def test_an_unclear_choice_is_refused(inner: str, asked: list[str], message: str, hint: str | None) -> None:
    text = marked(INTERFACE)[0] + OTHER + BROKEN + MODEL.format(f"({inner})")
    with pytest.raises(UnsupportedError, match=message) as caught:
        patch_source(text, architecture="Model", attention=asked)
    assert hint is None or re.search(hint, caught.value.hint)


def test_an_architecture_missing_from_the_file_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no class Missing"):
        patch_source(marked(INTERFACE)[0], architecture="Missing")
