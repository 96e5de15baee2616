import ast

import pytest

from fa3cli.errors import UnsupportedError
from fa3cli.patching.locating.kernels import unknown_kernel
from fa3cli.patching.sources import patch_source
from tests.patching.samples import CACHE, INTERFACE, marked, modeling

CORE = "out, _ = eager_attention_forward(self, a, b, c, mask)\nreturn out"


@pytest.mark.parametrize(
    "line",
    [
        "if self.fast:\n    return xops.memory_efficient_attention(a, b, c)",
        "if self.fast:\n    return flash_attn_varlen_func(a.transpose(1, 2), k=b, v=c)",
        "if self.fast:\n    return F.scaled_dot_product_attention(*[a, b, c])",
        "out = npu_fusion_attention(a, b, c) if self.fast else None",
    ],
)
def test_an_unknown_kernel_beside_the_core_is_refused(line: str) -> None:
    with pytest.raises(UnsupportedError, match=r"m\.py:\d+: "):
        patch_source(modeling(CACHE + line + "\n" + CORE), name="m.py")


def test_an_unknown_kernel_in_another_class_is_refused() -> None:
    text = marked(INTERFACE)[0] + (
        "\n\nclass Local(nn.Module):\n    def forward(self, x):\n        return flex_attention(x, x, x)\n"
        "\n\nclass Model:\n    def __init__(self, config):\n        self.a, self.b = Attention(config), Local(config)\n"
    )
    with pytest.raises(UnsupportedError, match="Local calls flex_attention"):
        patch_source(text, architecture="Model")


@pytest.mark.parametrize(
    "line",
    [
        "mask = make_attention_mask(x, mask, past)",
        "self.attention(x, mask, past)",
        "check_flash_attention(x, mask, past)",
        "attention_class = attention_class(x, mask, past)",
        "is_flash_attn_2_available(1, 2, 3)",
        "if self.training: flash_attn_varlen_func(x, x, x)",
        "own_attention(x, x, x)",
        "attention(x)",
    ],
)
def test_masks_checks_and_other_modules_are_not_kernels(line: str) -> None:
    (node,) = ast.parse(f"class A:\n    def forward(self):\n        {line}").body
    assert unknown_kernel(node, [], {"own_attention"}) is None


@pytest.mark.parametrize(
    "core",
    [
        "out = checkpoint(lambda a, b, c: F.scaled_dot_product_attention(a, b, c), a, b, c)",
        "def attend(c, b, a):\n    return F.scaled_dot_product_attention(a, b, c)\nout = attend(a, b, c)",
        "out = [F.scaled_dot_product_attention(a[:, :, i : i + 1], b, c) for i in range(length)]",
    ],
)
def test_attention_in_a_nested_scope_is_refused(core: str) -> None:
    with pytest.raises(UnsupportedError, match="within the function, or in a comprehension"):
        patch_source(modeling(CACHE + core + "\nreturn out"))
