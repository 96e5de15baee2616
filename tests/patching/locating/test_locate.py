import pytest

from fa3cli.errors import UnsupportedError
from fa3cli.patching.locating.cores import find_cores
from fa3cli.patching.locating.locate import locate
from fa3cli.patching.source import parse
from tests.patching.samples import REFUSED, RIGHT, marked, modeling


def site(text: str):
    source = parse(text, "m.py")
    forward = source.tree.body[-1].body[1]
    return locate(forward, find_cores(forward, source.refuse), source.refuse)


@pytest.mark.parametrize("family", RIGHT)
def test_states_are_taken_where_they_enter_attention(family: str) -> None:
    text, names, line = marked(RIGHT[family])
    found = site(text)
    assert found.states == names
    assert found.after.end_lineno == line


@pytest.mark.parametrize("family", REFUSED)
def test_uncertain_code_is_refused_with_line_and_reason(family: str) -> None:
    body, reason = REFUSED[family]
    with pytest.raises(UnsupportedError, match=rf"^m\.py:\d+: .*{reason}"):
        site(modeling(body))


def test_only_states_with_another_layout_have_a_layout_change() -> None:
    layout_changes = {family: set(site(marked(RIGHT[family])[0]).layout_changes) for family in RIGHT}
    assert {family: roles for family, roles in layout_changes.items() if roles} == {
        "flat_cache": {"q", "k", "v"},
        "flash_query": {"q"},
    }
