from pathlib import Path

import pytest

from fa3cli.errors import ConflictError
from fa3cli.patching.edits import Edit, apply
from fa3cli.patching.folders.config_json import read_config, set_auto_map
from fa3cli.patching.folders.receipt import Change, sha256
from fa3cli.patching.folders.reverting import remove_edits, unpatched

PATH = Path("config.json")


def test_edits_by_hand_stay_when_the_entry_is_removed() -> None:
    text = '{\n  "model_type": "x"\n}\n'
    edits = set_auto_map(read_config(PATH, text), "m.C")
    by_hand = apply(text, edits).replace('"x"', '"y"')
    assert remove_edits(read_config(PATH, by_hand), edits) == text.replace('"x"', '"y"')
    with pytest.raises(ConflictError, match="cannot tell"):
        remove_edits(read_config(PATH, '{"auto_map": {"AutoModelForCausalLM":"m.C"}}'), edits)


def test_equal_insertions_are_removed_in_order() -> None:
    text = '{"a": 1, "b": 2}'
    edits = [Edit(text.index("1"), "1", "9"), Edit(text.index("2"), "2", "9")]
    changed = apply(text, edits)
    assert changed.count("9") == 2
    assert remove_edits(read_config(PATH, changed + " "), edits) == text + " "


@pytest.mark.parametrize(
    "edits",
    [
        (Edit(99, "a", "b"),),
        (Edit(-3, "", ""),),
        (Edit(0, "", "{"),),
        (Edit(0, "[", "{"),),
        (Edit(0, "", ""),),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_edits_that_do_not_fit_the_text_are_a_conflict(edits: tuple, known: bool) -> None:
    text = '{"a": 1}'
    after = sha256(text.encode()) if known else "another"
    with pytest.raises(ConflictError):
        unpatched(read_config(PATH, text), Change("before", after, edits))
