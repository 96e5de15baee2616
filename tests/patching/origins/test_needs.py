import ast

import pytest

from fa3cli.patching.imports import absolute_imports
from fa3cli.patching.origins.installed import Installed, installed_transformers
from fa3cli.patching.origins.needs import missing_names
from fa3cli.patching.rewriting import write
from fa3cli.patching.source import parse

FILES = {
    "__init__.py": '_import_structure = {"models.x": ["XConfig"]}\n',
    "activations.py": "import torch\n\n\nclass Act: ...\n\n\nACT: dict = {}\n# gone, Gone and a gone() in a comment\n",
    "utils/__init__.py": "from .generic import (\n    shared as common,\n    listed,\n)\n",
    "utils/generic.py": "def listed(): ...\n\n\nif True:\n    flag = 1\n",
    "models/y/modeling_y.py": "class YModel: ...\n",
}


@pytest.fixture
def installed(tmp_path) -> Installed:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return Installed(tmp_path, "4.43.1")


@pytest.mark.parametrize(
    "text",
    [
        "from transformers.activations import Act, ACT",
        "from transformers.utils import listed, common, flag, generic",
        "from transformers import XConfig, YModel, utils",
        "from transformers import activations\nactivations.Act",
        "import transformers.activations as a\na.ACT",
        "import transformers\ntransformers.YModel",
        "import torch\ntorch.gone",
        "try:\n    from transformers.activations import gone\nexcept ImportError:\n    gone = None",
        "if old:\n    from transformers.activations import gone",
        "from transformers.activations import *",
        "from transformers.activations import ACT\nACT.gone",
    ],
)
def test_existing_and_optional_names_are_not_missing(installed, text: str) -> None:
    assert missing_names(installed, parse(text, "m.py")) == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("from transformers.activations import Act, gone, Gone", ["gone of transformers.activations", "Gone of transformers.activations"]),
        ("from transformers.nowhere import x", ["x of transformers.nowhere"]),
        ("from transformers import ZModel", ["ZModel of transformers"]),
        ("from transformers import activations as a\ndef f():\n    return a.gone", ["gone of transformers.activations"]),
        ("import transformers.activations as a\na.gone.b", ["gone of transformers.activations"]),
        ("def f():\n    from transformers.utils import missing", ["missing of transformers.utils"]),
    ],
)  # fmt: skip
def test_each_missing_name_is_listed_once_in_full(installed, text: str, names: list[str]) -> None:
    assert missing_names(installed, parse(f"{text}\n{text}", "m.py")) == names


def test_modeling_files_miss_nothing_in_their_own_version() -> None:
    installed = installed_transformers()
    paths = sorted(installed.folder.glob("models/*/modeling_*.py"))[::20]
    for path in paths:
        source = parse(path.read_bytes(), str(path))
        made = write(source, absolute_imports(source, f"transformers.models.{path.parent.name}"))
        assert missing_names(installed, parse(made, str(path))) == []
    assert len(paths) > 10


def test_all_missing_names_of_a_newer_file_are_listed() -> None:
    installed = installed_transformers()
    text = installed.modeling_file("qwen2").path.read_text()
    names = [alias.name for node in ast.parse(text).body if isinstance(node, ast.ImportFrom) for alias in node.names]
    for name in names:
        text = text.replace(f" {name}", f" {name}2")
    source = parse(text, "m.py")
    found = missing_names(
        installed, parse(write(source, absolute_imports(source, "transformers.models.qwen2")), "m.py")
    )
    relative = [node for node in ast.parse(text).body if isinstance(node, ast.ImportFrom) and node.level]
    assert len(found) == sum(len(node.names) for node in relative)
