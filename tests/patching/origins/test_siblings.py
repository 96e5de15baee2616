import pytest

from fa3cli.errors import InvalidInputError, UnsupportedError
from fa3cli.patching.origins.installed import installed_transformers
from fa3cli.patching.origins.siblings import attention_elsewhere, check_siblings
from fa3cli.patching.source import parse
from tests.patching.samples import INTERFACE, modeling

ATTENTION = modeling(INTERFACE)


@pytest.fixture
def write_files(tmp_path):
    """Write files; the first is the source."""

    def write(**files: str):
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        path = tmp_path / f"{next(iter(files))}.py"
        return parse(path.read_bytes(), str(path)), tmp_path

    return write


def test_imports_of_files_in_the_folder_are_accepted(write_files) -> None:
    check_siblings(
        *write_files(m="from .a import x\nfrom . import b\ndef f():\n    from .b import y", a="from .b import z", b="")
    )


@pytest.mark.parametrize("text", ["from .a import x", "from . import a", "try:\n    from .a import x\nexcept E: pass"])
def test_a_missing_file_is_named(write_files, text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"b\.py:1: imports \.a, but .*a\.py does not exist"):
        check_siblings(*write_files(m="from .b import x", b=text.replace("try:\n    ", "try: ")))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("from ..a import x", r"m\.py:1: imports \.\.a"),
        ("\nfrom .a.b import x", r"m\.py:2: imports \.a\.b"),
        ("from .b import x", r"b\.py:1: imports m\.py itself"),
    ],
)
def test_imports_that_transformers_cannot_load_are_refused(write_files, text: str, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        check_siblings(*write_files(m=text, b="from .m import y"))


@pytest.mark.parametrize(
    "text",
    [
        "from .a import Attention\nclass M:\n    def __init__(self):\n        self.x = Attention()\n",
        "from .a import Attention as A\nclass M(A): pass\n",
        "from .b import Layer\nclass M:\n    x = Layer\n",
        "from .b import *\nclass M: pass\n",
        "from . import a\nclass M:\n    x = a.Attention\n",
    ],
)
def test_attention_in_another_file_is_found(write_files, text: str) -> None:
    source, folder = write_files(
        m=text,
        a=ATTENTION,
        b="from .a import Attention\nclass Layer:\n    def f(self):\n        return Attention()\n",
    )
    found = attention_elsewhere(installed_transformers(), source, folder, "M")
    assert found == [f"Attention ({folder / 'a.py'}:6)"]


@pytest.mark.parametrize(
    "text",
    [
        "from .a import Attention, help\nclass M:\n    x = help\n",
        "from .a import Attention\nclass M: pass\nclass N(Attention): pass\n",
        (
            "from .a import Attention\nclass M:\n    def __init__(self, config):\n"
            "        self.eye = Attention(config.vision_config)\n"
        ),
    ],
)
def test_attention_outside_the_language_model_is_ignored(write_files, text: str) -> None:
    source, folder = write_files(m=text, a=f"{ATTENTION}\n\ndef help(): pass\n")
    assert attention_elsewhere(installed_transformers(), source, folder, "M") == []


def test_layers_imported_from_transformers_are_found(write_files) -> None:
    source, folder = write_files(
        m="from transformers import LlamaModel as L, PreTrainedModel\nfrom transformers.models.x import XDecoderLayer\n"
        "class M(PreTrainedModel):\n    x = L, XDecoderLayer\n    def forward(self): ...\n"
    )
    place = folder / "m.py"
    assert attention_elsewhere(installed_transformers(), source, folder, "M") == [
        f"LlamaModel of transformers ({place}:1)",
        f"XDecoderLayer of transformers ({place}:2)",
    ]
