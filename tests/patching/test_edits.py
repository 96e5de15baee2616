import pytest
from hypothesis import given
from hypothesis import strategies as st

from fa3cli.errors import ConflictError
from fa3cli.patching.edits import Edit, apply, compose, reverse


@st.composite
def texts_and_edits(draw):
    text = draw(st.text(max_size=40))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    spans = list(zip(cuts[::2], cuts[1::2]))
    return text, [Edit(start, text[start:end], draw(st.text(max_size=5))) for start, end in spans]


@given(texts_and_edits())
def test_reversing_gives_the_text_back(case):
    text, edits = case
    assert reverse(apply(text, edits), edits) == text


@given(texts_and_edits(), st.data())
def test_two_lists_of_edits_are_one(case, data):
    text, first = case
    made = apply(text, first)
    second, low = [], 0
    # Clear of what the first inserted, or within it.
    shift, spans = 0, []
    for edit in first:
        spans.append((edit.offset + shift, edit.offset + shift + len(edit.inserted)))
        shift += len(edit.inserted) - len(edit.removed)
    for start, end in spans:
        if end - start > 2 and data.draw(st.booleans()):
            second.append(Edit(start + 1, made[start + 1 : end - 1], data.draw(st.text(max_size=3))))
        if start > low and data.draw(st.booleans()):
            second.append(Edit(low, made[low:start], data.draw(st.text(max_size=3))))
        low = end
    expected = apply(made, second)
    both = compose(first, second)
    assert apply(text, both) == expected
    assert reverse(expected, both) == text


def test_edits_that_overlap_are_not_one():
    with pytest.raises(ConflictError, match="overlap"):
        compose([Edit(1, "", "xy")], [Edit(2, "yb", "")])


def test_edits_are_made_where_they_belong():
    edits = [Edit(4, "d", "D"), Edit(0, "", "> "), Edit(2, "c", "")]
    assert apply("abcXd", edits) == "> abXD"


def test_another_text_is_refused():
    with pytest.raises(ConflictError, match="character 1"):
        apply("axc", [Edit(1, "b", "")])
