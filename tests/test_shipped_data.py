"""Tests that the shipped calibration data and example model can be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from fa3cli.samples.dataset import DEFAULT_CALIBRATION, read_samples

EXAMPLES = Path(__file__).parents[1] / "examples"
MODEL = EXAMPLES / "qwen2-tiny"
CALIBRATION, HELD_OUT = EXAMPLES / "qwen2-tiny-calib.jsonl", EXAMPLES / "qwen2-tiny-eval.jsonl"


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_default_calibration_has_the_form_of_boolq() -> None:
    records = lines(DEFAULT_CALIBRATION)
    assert len(records) == 50
    assert len({record["question"] for record in records}) == 50
    for record in records:
        assert set(record) == {"title", "passage", "question"}
        assert record["question"] == record["question"].lower() and not record["question"].endswith("?")
        assert 2 <= record["passage"].count(". ") + 1 <= 4


@pytest.mark.parametrize(("file", "count"), [(DEFAULT_CALIBRATION, 50), (CALIBRATION, 32), (HELD_OUT, 64)])
def test_every_line_fits_the_example_model(file: Path, count: int) -> None:
    assert len(read_samples(file, MODEL, longest=512, vocab_size=2048)) == count


def test_calibration_and_held_out_text_are_disjoint() -> None:
    texts = [{record["inputs_pretokenized"] for record in lines(file)} for file in (CALIBRATION, HELD_OUT)]
    assert texts[0].isdisjoint(texts[1])


def test_the_example_tokenizer_loads_in_this_transformers() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    assert tokenizer.decode(tokenizer("It is a truth")["input_ids"]).strip() == "It is a truth"
