from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from transformers import AutoTokenizer

from fa3cli.errors import InvalidInputError
from fa3cli.samples.dataset import Sample, read_samples
from tests.conftest import EXAMPLES, copy_model
from tests.sample_models import write_lines

MODEL = EXAMPLES / "qwen2-tiny"
BOOLQ = {"title": "Ark", "passage": "A small boat.", "question": "is it small"}
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CHAT = [{"role": "user", "content": "Who is there?"}]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "lines.jsonl"


def ids(sample: Sample) -> tuple[int, ...]:
    (row,) = sample.arguments["input_ids"].tolist()
    return tuple(row)


def tokens(text: str) -> tuple[int, ...]:
    return tuple(AutoTokenizer.from_pretrained(MODEL)(text)["input_ids"])


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"text": "In the beginning"}, "In the beginning"),
        ({"inputs_pretokenized": "In the\nbeginning"}, "In the\nbeginning"),
        ({"text": "Zoë — 天"}, "Zoë — 天"),
        (BOOLQ, "Ark -- A small boat.\nQuestion:is it small?\nAnswer:"),
        (
            BOOLQ | {"answer": True, "text": "not this"},
            "Ark -- A small boat.\nQuestion:is it small?\nAnswer:",
        ),
    ],
)
def test_a_line_of_text_is_tokenized(file: Path, record: dict[str, Any], text: str) -> None:
    (sample,) = read_samples(write_lines(file, [record]), MODEL)
    assert ids(sample) == tokens(text)
    assert (sample.origin, sample.cut, sample.mask) == (f"{file}, line 1", False, None)


def with_template(folder: Path) -> Path:
    copy_model(MODEL, folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": TEMPLATE}))
    return folder


def test_messages_use_the_chat_template(file: Path, tmp_path: Path) -> None:
    (sample,) = read_samples(write_lines(file, [{"messages": CHAT}]), with_template(tmp_path / "chat"))
    assert ids(sample) == tokens("<user>Who is there?\n<assistant>")


@pytest.mark.parametrize("messages", ["hello", [{"content": "no role"}], [1], None, {}])
def test_invalid_messages_are_refused(file: Path, tmp_path: Path, messages: Any) -> None:
    file = write_lines(file, [[5], {"messages": messages}])
    strict = TEMPLATE.replace("{{ m['role'] }}", "{{ m['role'] or raise_exception('a message has a role') }}")
    folder = with_template(tmp_path / "chat")
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": strict}))
    refused(file, 2, folder=folder)


ROWS = "{% for a in range(99999) %}"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (ROWS * 3 + "{% endfor %}" * 3, "TimeoutError"),
        ("{{ 'a' * 10**10 }}", "MemoryError"),
        ("{{ 9 ** (9 ** 10) }}", "Error"),
        ("{{ 'a' * 20_000_000 }}", "returns 20000000 characters"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "RecursionError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ ''.__class__.__mro__ }}{{ nothing.at.all }}", "Error"),
        ("{% for", "TemplateSyntaxError"),
    ],
)
def test_an_endless_or_failing_template_is_refused(
    file: Path, tmp_path: Path, template: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fa3cli.samples.records._TEMPLATE_SECONDS", 1)
    folder = with_template(tmp_path / "chat")
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": template}))
    refused(write_lines(file, [[5], {"messages": CHAT}]), 2, words, folder=folder)


def test_messages_without_a_chat_template_are_refused(file: Path) -> None:
    refused(write_lines(file, [[5], {"messages": CHAT}]), 2, "template")


def test_token_ids_need_no_tokenizer(file: Path, tmp_path: Path) -> None:
    (sample,) = read_samples(write_lines(file, [[5, 0, 7]]), tmp_path)
    assert ids(sample) == (5, 0, 7)


def test_text_without_a_tokenizer_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as raised:
        read_samples(write_lines(file, [[5], {"text": "In the beginning"}]), tmp_path)
    assert "no tokenizer" in str(raised.value) and str(tmp_path) in str(raised.value)
    assert "input_ids" in raised.value.hint


def test_a_broken_tokenizer_is_refused(file: Path, tmp_path: Path) -> None:
    folder = copy_model(MODEL, tmp_path / "broken")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InvalidInputError, match="no tokenizer for text"):
        read_samples(write_lines(file, [{"text": "In the beginning"}]), folder)


def refused(file: Path, line: int, *words: str, folder: Path = MODEL, **options: Any) -> InvalidInputError:
    """Check that reading is refused with a message that names file and line and contains all words."""
    with pytest.raises(InvalidInputError) as raised:
        read_samples(file, folder, **options)
    assert f"{file}, line {line}:" in str(raised.value)
    for word in words:
        assert word in f"{raised.value} {raised.value.hint}"
    return raised.value


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ('{"text": ', "not json"),
        ("In the beginning", "not json"),
        ("", "not json"),
        ("   ", "not json"),
        ('["text"]', "json object"),
        ("null", "json object"),
        ("3", "json object"),
        ("{}", "an empty object"),
        ('{"title": "Ark", "passage": "A boat."}', "'title', 'passage'"),
        ('{"title": "Ark", "passage": null, "question": "is it"}', "passage is not a string"),
        ('{"text": 5}', "text is not a string"),
        ('{"inputs_pretokenized": ["a"]}', "inputs_pretokenized is not a string"),
        ('{"input_ids": "5 6"}', "whole numbers"),
        ('{"input_ids": [5, 6.0]}', "whole numbers"),
        ('{"input_ids": [true]}', "whole numbers"),
        ('{"input_ids": [[5, 6], 7]}', "whole numbers"),
        ('{"input_ids": [[5, 6], [7]]}', "differ in length"),
        ('{"input_ids": [[]]}', "no tokens"),
        ('{"input_ids": [5, 6], "attention_mask": [1]}', "as long as"),
        (
            '{"input_ids": [5, 6], "attention_mask": [1, "0"]}',
            "attention_mask is not a list of whole numbers",
        ),
        ('{"input_ids": []}', "no tokens"),
        ('{"text": ""}', "no tokens"),
        ('{"text": "a\\ud800"}', "not json"),
        ('{"a": ' * 500 + "1" + "}" * 500, "not json"),
        ("[" * 100_000, "not json"),
        ("9" * 5000, "not json"),
        ('{"input_ids": [1e999]}', "whole numbers"),
        ('{"input_ids": [[[1]]]}', "whole numbers"),
        ('{"input_ids": [99999999999]}', "32 bits"),
        ('{"text": "a\\u0000"} \x00', "not json"),
    ],
)
def test_a_broken_line_is_named_by_its_number(file: Path, broken: str, words: str) -> None:
    good = json.dumps({"input_ids": [5, 6]})
    file.write_text(f"{good}\n{good}\n{broken}\n{good}\n")
    refused(file, 3, words, vocab_size=2048)
    assert len(read_samples(file, MODEL, count=2)) == 2  # a line that is not requested is ignored


@pytest.mark.parametrize("text", ["", "\n", " \n\n"])
def test_an_empty_file_is_refused(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(InvalidInputError, match="empty; expected one json object per line") as raised:
        read_samples(file, MODEL)
    assert str(file) in str(raised.value)


def test_files_that_cannot_be_read_are_refused(file: Path, tmp_path: Path) -> None:
    file.write_bytes(b'{"text": "\xff\xfe"}\n')
    for path in (file, tmp_path, tmp_path / "nowhere.jsonl"):
        with pytest.raises(InvalidInputError, match="cannot be read") as raised:
            read_samples(path, MODEL)
        assert str(path) in str(raised.value)


def test_line_ends_and_byte_order_marks_of_other_systems_are_accepted(file: Path) -> None:
    file.write_bytes(b'\xef\xbb\xbf{"input_ids": [5]}\r\n{"input_ids": [6]}\r\n\r\n')
    assert [ids(sample) for sample in read_samples(file, MODEL)] == [(5,), (6,)]


def test_a_separator_within_a_text_does_not_end_the_line(file: Path) -> None:
    file.write_text(json.dumps({"text": "one\u2028two\x85three"}, ensure_ascii=False), encoding="utf-8")
    assert len(read_samples(file, MODEL)) == 1


@pytest.mark.parametrize(("count", "lines"), [(1, [1]), (2, [1, 2]), (9, [1, 2, 3]), (None, [1, 2, 3])])
def test_samples_takes_the_first_lines(file: Path, count: int | None, lines: list[int]) -> None:
    write_lines(file, [[5], [6], [7]])
    assert [sample.origin for sample in read_samples(file, MODEL, count=count)] == [
        f"{file}, line {line}" for line in lines
    ]


def test_max_length_cuts_samples_and_marks_them(file: Path) -> None:
    write_lines(file, [[5, 6, 7], [5, 6]])
    found = [(ids(sample), sample.cut) for sample in read_samples(file, MODEL, max_length=2)]
    assert found == [((5, 6), True), ((5, 6), False)]


def test_a_sample_longer_than_the_model_accepts_is_refused(file: Path) -> None:
    write_lines(file, [[5] * 8, [5] * 9])
    refused(file, 2, "9 tokens, but the model accepts at most 8", "--max-length 8", longest=8)
    assert len(read_samples(file, MODEL, longest=8, max_length=8)) == 2


def test_a_batch_is_read_with_its_mask(file: Path, tmp_path: Path) -> None:
    lines = [
        {"input_ids": [[5, 6, 7], [8, 9, 10]], "attention_mask": [[1, 1, 1], [0, 1, 1]]},
        {"input_ids": [5, 6], "attention_mask": [1, 1]},
    ]
    batch, single = read_samples(write_lines(file, lines), tmp_path, max_length=2)
    assert batch.arguments["input_ids"].tolist() == [[5, 6], [8, 9]] and (batch.tokens, batch.cut) == (
        4,
        True,
    )
    assert batch.mask.tolist() == [[True, True], [False, True]]
    assert single.mask is None and (single.tokens, single.cut) == (2, False)


@pytest.mark.parametrize("number", [2**31, 10**30])
def test_a_number_beyond_32_bits_is_refused(file: Path, number: int) -> None:
    refused(write_lines(file, [[0, 95], [5, number]]), 2, "32 bits", vocab_size=96)


@pytest.mark.parametrize("token", [-1, 96])
def test_a_token_outside_the_vocabulary_is_refused(file: Path, token: int) -> None:
    write_lines(file, [[0, 95], [5, token]])
    refused(file, 2, "vocabulary of 96", vocab_size=96)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "a"]), inner),
    max_leaves=6,
)
RECORDS = st.dictionaries(
    st.sampled_from(["text", "messages", "input_ids", "attention_mask", "title", "passage", "question"]),
    VALUES,
    max_size=4,
)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_template(tmp_path_factory.mktemp("chat") / "model")


@hypothesis.settings(max_examples=300)
@hypothesis.given(record=RECORDS, at=st.integers(0, 200), put=st.binary(max_size=2))
def test_any_line_is_read_or_named(chat: Path, record: dict, at: int, put: bytes) -> None:
    line = json.dumps(record).encode()
    line = (line[:at] + put + line[at + len(put) :]).replace(b"\n", b" ").replace(b"\r", b" ")
    file = chat / "lines.jsonl"
    file.write_bytes(b'{"input_ids": [5]}\n' + line + b'\n{"input_ids": [6]}\n')
    try:
        assert len(read_samples(file, chat, vocab_size=2048, longest=512)) == 3
    except InvalidInputError as error:
        assert "lines.jsonl, line 2: " in str(error)
