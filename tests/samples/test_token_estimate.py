from __future__ import annotations

from pathlib import Path

import pytest

from fa3cli.samples.token_estimate import TokenEstimate, has_tokenizer


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        # Counts of cl100k and o200k, whose vocabularies are as large as those of Llama and Qwen.
        ("It was the best of times, it was the worst of times, it was the age of wisdom.", 18, 24),
        ("天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。", 14, 30),
        ("", 1, 1),
        ("\ud800", 1, 1),
    ],
)
def test_the_estimate_is_close_to_real_tokenizers(text: str, least: int, most: int) -> None:
    assert least <= len(TokenEstimate(None)(text)["input_ids"]) <= most


def test_the_estimate_does_not_exceed_the_limit_of_the_model() -> None:
    assert TokenEstimate(8)("word " * 100) == {"input_ids": [0] * 8}


def test_roles_and_contents_of_a_conversation_are_counted() -> None:
    tokenizer = TokenEstimate(None)
    chat = [{"role": "user", "content": "Who is there?"}, {"role": "assistant", "content": "It is I."}]
    assert tokenizer.chat_template
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert all(words in text for message in chat for words in message.values())


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("tokenizer.json", True),
        ("tokenizer.model", True),
        ("vocab.txt", True),
        ("qwen.tiktoken", True),
        ("config.json", False),
    ],
)
def test_has_tokenizer_finds_tokenizer_files(tmp_path: Path, file: str, found: bool) -> None:
    (tmp_path / file).touch()
    assert has_tokenizer(tmp_path) is found
