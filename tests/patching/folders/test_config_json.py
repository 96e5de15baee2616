import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fa3cli.errors import InvalidInputError
from fa3cli.patching.edits import apply, reverse
from fa3cli.patching.folders.config_json import CAUSAL_LM, read_config, set_auto_map

PATH = Path("config.json")


def edited(text: str) -> str:
    return apply(text, set_auto_map(read_config(PATH, text), "m.C"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            '{\n  "architectures": [\n    "C"\n  ],\n  "model_type": "x"\n}\n',
            (
                '{\n  "architectures": [\n    "C"\n  ],\n  "auto_map": {\n    "AutoModelForCausalLM": "m.C"\n  },\n'
                '  "model_type": "x"\n}\n'
            ),
        ),
        ('{"model_type": "x"}', '{"model_type": "x", "auto_map": {"AutoModelForCausalLM": "m.C"}}'),
        (
            '\ufeff{\r\n\t"model_type": "x"\r\n}',
            '\ufeff{\r\n\t"model_type": "x",\r\n\t"auto_map": {\r\n\t\t"AutoModelForCausalLM": "m.C"\r\n\t}\r\n}',
        ),
        (
            '{\n  "model_type": "x",\n  "auto_map": {\n    "AutoConfig": "c.D"\n  }\n}',
            '{\n  "model_type": "x",\n  "auto_map": {\n    "AutoModelForCausalLM": "m.C",\n    "AutoConfig": "c.D"\n  }\n}',
        ),
        (
            '{"auto_map":{}, "model_type": "x"}',
            '{"auto_map":{"AutoModelForCausalLM": "m.C"}, "model_type": "x"}',
        ),
        (
            '{"auto_map":null, "model_type": "x"}',
            '{"auto_map":{"AutoModelForCausalLM": "m.C"}, "model_type": "x"}',
        ),
        (
            '{"auto_map": {"AutoModelForCausalLM": "o.O"}, "model_type": "x"}',
            '{"auto_map": {"AutoModelForCausalLM": "m.C"}, "model_type": "x"}',
        ),
        (
            '{"auto_map": {"AutoModelForCausalLM": null, "AutoTokenizer": ["t.T", null]}, "model_type": "x"}',
            '{"auto_map": {"AutoModelForCausalLM": "m.C", "AutoTokenizer": ["t.T", null]}, "model_type": "x"}',
        ),
        # Of a repeated key the last one counts.
        (
            '{"auto_map": {"A": "a.A"}, "model_type": "x", "auto_map": {"B": "b.B", "B": "c.C"}}',
            '{"auto_map": {"A": "a.A"}, "model_type": "x", "auto_map": {"B": "b.B", "AutoModelForCausalLM": "m.C", "B": "c.C"}}',
        ),
        (
            '{"auto\\u005fmap": {"AutoModelForCausalLM": "a.A"},"model_type":"x"}',
            '{"auto\\u005fmap": {"AutoModelForCausalLM": "m.C"},"model_type":"x"}',
        ),
        (
            '{\r"model_type":"x"\r}',
            '{\r"model_type":"x",\r"auto_map": {"AutoModelForCausalLM": "m.C"}\r}',
        ),
    ],
)
def test_only_the_auto_map_entry_is_added(before: str, after: str) -> None:
    assert edited(before) == after
    assert edited(after) == after


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    data=st.dictionaries(
        st.text(max_size=8).filter(lambda key: key not in ("auto_map", "architectures")), values, max_size=5
    ),
    auto_map=st.none() | st.dictionaries(st.sampled_from(["AutoConfig", CAUSAL_LM]), st.text(max_size=5)),
    indent=st.sampled_from([None, 0, 1, 4]),
    ascii_only=st.booleans(),
)
def test_any_config_keeps_its_values_and_can_be_restored(data, auto_map, indent, ascii_only) -> None:
    data = {**data, "model_type": "x"} | ({"auto_map": auto_map} if auto_map is not None else {})
    text = json.dumps(data, indent=indent, ensure_ascii=ascii_only)
    edits = set_auto_map(read_config(PATH, text), "m.C")
    changed = apply(text, edits)
    assert json.loads(changed) == {**data, "auto_map": {**(auto_map or {}), CAUSAL_LM: "m.C"}}
    assert reverse(changed, edits) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not valid json"), ("[]", "expected a json object, found list"), ('{"a": 1', "not valid json")],
)
def test_a_broken_config_is_invalid(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        read_config(path)


def test_a_missing_config_is_invalid(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="not found"):
        read_config(tmp_path / "config.json")
    (tmp_path / "config.json").symlink_to("../blobs/gone")
    with pytest.raises(InvalidInputError, match="broken link to ../blobs/gone"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("entry", "found"),
    [("m.C", (None, "m.py", "C")), ("a/b--m.C", ("a/b", "m.py", "C")), ("m-1.C", (None, "m-1.py", "C"))],
)
def test_an_entry_names_repository_file_and_class(entry: str, found: tuple) -> None:
    config = read_config(PATH, json.dumps({"auto_map": {CAUSAL_LM: entry}}))
    assert (config.causal_lm.repository, config.causal_lm.file, config.causal_lm.name) == found
    assert read_config(PATH, json.dumps({"auto_map": {CAUSAL_LM: None}})).causal_lm is None


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{}", "model_type"),
        ('{"model_type": 3}', "model_type"),
        ('{"model_type": "x", "architectures": "A"}', "architecture"),
        ('{"model_type": "x", "architectures": [3]}', "architecture"),
        ('{"model_type": "x", "auto_map": "A"}', "auto_map"),
    ],
)
def test_a_field_of_the_wrong_type_is_invalid(text: str, field: str) -> None:
    with pytest.raises(InvalidInputError, match=field):
        getattr(read_config(PATH, text), field)


def test_missing_architectures_give_none() -> None:
    assert read_config(PATH, '{"model_type": "x"}').architecture is None
    assert read_config(PATH, '{"architectures": []}').architecture is None


def test_a_component_of_a_pipeline_is_not_a_model(tmp_path) -> None:
    config = read_config(tmp_path / "config.json", '{"_class_name": "FluxTransformer2DModel"}')
    with pytest.raises(InvalidInputError, match="component of a diffusers pipeline"):
        _ = config.model_type
