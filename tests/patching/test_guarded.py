import ast

import pytest

from fa3cli.patching.edits import between, reverse
from fa3cli.patching.guarded import guard_imports, required_packages
from fa3cli.patching.rewriting import write
from fa3cli.patching.source import parse
from tests.patching.matrix.measure import measure
from tests.patching.test_versions import python


def guarded(text: str) -> str:
    source = parse(text, "m.py")
    made = write(source, guard_imports(source))
    ast.parse(made)
    assert reverse(made, between(text, made)) == text
    return made


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "if is_x_available():\n    from x.y import (\n        a,\n    )  # why\n    b = a\n",
            (
                "if is_x_available():\n    try: from x.y import (\n        a,\n    )  # why\n"
                "    except ImportError: raise\n    b = a\n"
            ),
        ),
        (
            "def f():\r\n\timport x\r\n\treturn x\r\n",
            "def f():\r\n\ttry: import x\r\n\texcept ImportError: raise\r\n\treturn x\r\n",
        ),
        ("if f(): import x; y = x", "if f(): \n    try: import x; y = x\n    except ImportError: raise"),
        (
            "class A:\n    def f(self):\n        a = 1; import x; import y;\n",
            "class A:\n    def f(self):\n        try: a = 1; import x; import y;\n        except ImportError: raise\n",
        ),
        (
            "@d\ndef f(): import x\nf()\n",
            "@d\ndef f(): \n    try: import x\n    except ImportError: raise\nf()\n",
        ),
        (
            "if a:\n    pass\nelse: import x\n",
            "if a:\n    pass\nelse: \n    try: import x\n    except ImportError: raise\n",
        ),
        (
            "try:\n    import x\nexcept ImportError:\n    import y\n",
            "try:\n    import x\nexcept ImportError:\n    try: import y\n    except ImportError: raise\n",
        ),
        ("with f():\n    import x", "with f():\n    try: import x\n    except ImportError: raise"),
    ],
)
def test_imports_under_a_condition_are_put_in_a_try(before: str, after: str) -> None:
    assert guarded(before) == after


@pytest.mark.parametrize(
    "text",
    [
        "import x\nfrom y import z\n",
        "class A:\n    import x\n",
        "if a:\n    import os, torch\n    from transformers import b\n    from .c import d\n    e = 1\n",
        "try:\n    import x\nexcept ImportError:\n    x = None\n",
        "def f():\n    try:\n        import x\n    finally:\n        pass\n",
        "",
    ],
)
def test_other_imports_are_unchanged(text: str) -> None:
    assert guarded(text) == text


def test_a_guarded_import_behaves_as_before() -> None:
    made = guarded("def f(name):\n    if name: import surely_not_installed\n    import xml.dom as dom; return dom\n")
    names: dict = {}
    exec(made, names)  # noqa: S102
    assert names["f"](False).__name__ == "xml.dom"
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
        names["f"](True)


def test_required_packages_are_those_imported_unconditionally() -> None:
    text = (
        "import os\nimport torch.nn\nimport x.y\nimport x\ntry:\n    import apex\nexcept ImportError:\n    pass\n"
        "class A:\n    from z import b\nif is_available():\n    from mamba_ssm.ops import f\nfrom .c import d\n"
    )
    assert required_packages(parse(text, "m.py")) == {"x": 3, "z": 10}


@pytest.mark.versions
@pytest.mark.parametrize(
    ("version", "types"),
    [("4.43.1", ["jamba"]), ("4.51.3", ["bamba", "jamba", "zamba2"]), ("5.23.0", ["inkling_text"])],
)
def test_models_whose_optional_packages_are_missing_load(version: str, types: list[str], tmp_path) -> None:
    python(version, "tests")
    found = measure(version, types, tmp_path)
    assert {name: (outcome.kind, outcome.reason) for name, outcome in found.items()} == dict.fromkeys(
        types, ("equal", "")
    )
