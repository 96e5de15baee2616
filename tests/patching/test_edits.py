import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fa3cli.errors import ConflictError
from fa3cli.patching.edits import Edit, apply, between, reverse


@st.composite
def texts_and_edits(draw):
    text = draw(st.text(max_size=40))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    spans = list(zip(cuts[::2], cuts[1::2]))
    return text, [Edit(start, text[start:end], draw(st.text(max_size=5))) for start, end in spans]


@given(texts_and_edits())
def test_reversed_edits_restore_the_text(case):
    text, edits = case
    assert reverse(apply(text, edits), edits) == text


@given(texts_and_edits())
def test_edits_between_two_texts_convert_one_to_the_other(case):
    text, edits = case
    made = apply(text, edits)
    found = between(text, made)
    assert apply(text, found) == made
    assert reverse(made, found) == text


@given(st.text("ab\n\r\f ", max_size=40), st.text("ab\n\r\f ", max_size=40))
def test_any_two_texts_have_edits_between_them(before, after):
    found = between(before, after)
    assert apply(before, found) == after
    assert reverse(after, found) == before
    assert bool(found) == (before != after)


def test_edits_add_whole_lines_and_change_parts_of_lines():
    before = "import a\nfrom ...b import c\nx = f(y, z)\nend\n"
    after = "import new\n\nimport a\nfrom package.b import c\nx = f(g(y, h=1), z)\nmore\nend\n"
    assert between(before, after) == (
        Edit(0, "", "import new\n\n"),
        Edit(14, "...", "package."),
        Edit(34, "", "g("),
        Edit(36, "", " h=1),"),
        Edit(40, "", "more\n"),
    )


def test_large_files_are_compared_within_a_second():
    lines = [f"line {number}\n" if number % 3 else "\n" for number in range(6000)]
    changed = list(lines)
    for place in range(100, 6000, 500):
        changed.insert(place, f"added {place}\n")
    start = time.process_time()
    assert len(between("".join(lines), "".join(changed))) == 12
    assert time.process_time() - start < 1


def test_edits_are_applied_at_their_offsets():
    edits = [Edit(4, "d", "D"), Edit(0, "", "> "), Edit(2, "c", "")]
    assert apply("abcXd", edits) == "> abXD"


def test_edits_of_another_text_are_refused():
    with pytest.raises(ConflictError, match="character 1"):
        apply("axc", [Edit(1, "b", "")])
