import pytest
from hypothesis import given
from hypothesis import strategies as st

from fa3cli.errors import ConflictError
from fa3cli.patching.edits import Edit, apply, reverse


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


def test_edits_are_made_where_they_belong():
    edits = [Edit(4, "d", "D"), Edit(0, "", "> "), Edit(2, "c", "")]
    assert apply("abcXd", edits) == "> abXD"


def test_another_text_is_refused():
    with pytest.raises(ConflictError, match="character 1"):
        apply("axc", [Edit(1, "b", "")])
