import pytest

from fa3cli.errors import UnsupportedError
from fa3cli.patching.imports import absolute_imports, quantizer_import
from fa3cli.patching.rewriting import write
from fa3cli.patching.source import parse


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from ...utils import a", "from transformers.utils import a"),
        ("from .configuration_x import (\n    A,\n)", "from transformers.models.x.configuration_x import (\n    A,\n)"),
        ("from ..llama.modeling_llama import L as M", "from transformers.models.llama.modeling_llama import L as M"),
        ("from ... import initialization as init", "from transformers import initialization as init"),
        ("from . import y", "from transformers.models.x import y"),
        ("if f():\n    from ...z import b", "if f():\n    from transformers.z import b"),
        ("def f():\n    from ...z.q import b\n    return b", "def f():\n    from transformers.z.q import b\n    return b"),
        ("from..a import b", "from transformers.models.a import b"),
        ("from .import y", "from transformers.models.x import y"),
        ("from \\\n    ...a \\\n    import (  # why\n    b,  # c\n)", "from \\\n    transformers.a \\\n    import (  # why\n    b,  # c\n)"),
        ("from ...a import b; from ...c import d", "from transformers.a import b; from transformers.c import d"),
        ("import torch\nfrom torch import nn", "import torch\nfrom torch import nn"),
    ],
)  # fmt: skip
def test_relative_imports_become_absolute(before: str, after: str) -> None:
    source = parse(before, "m.py")
    assert write(source, absolute_imports(source, "transformers.models.x")) == after


def test_an_import_from_above_the_package_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="m.py:1: .*5 levels"):
        absolute_imports(parse("from .....a import b", "m.py"), "transformers.models.x")


def test_the_quantizer_is_imported_first() -> None:
    text = '"""Doc."""\nfrom __future__ import annotations\nimport torch\nlogger = 1\n'
    source = parse(text, "m.py")
    assert write(source, [quantizer_import(source, "fa3cli")]) == (
        '"""Doc."""\nfrom __future__ import annotations\n'
        "from fa3cli.fa_quantizer import FAQuantizer\nfrom fa3cli import logger\n\nimport torch\nlogger = 1\n"
    )


def test_imports_for_msmodelslim_are_those_of_the_guide() -> None:
    source = parse("import torch\r\n", "m.py")
    assert write(source, [quantizer_import(source, "msmodelslim")]) == (
        "from msmodelslim.pytorch.llm_ptq.llm_ptq_tools.fa_quant import FAQuantizer\r\n"
        "from msmodelslim import logger\r\n\r\nimport torch\r\n"
    )


def test_without_a_package_relative_imports_stay() -> None:
    assert absolute_imports(parse("from .configuration_x import A\nfrom . import y", "m.py"), None) == []
