from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from safetensors.torch import save_file

from fa3cli.exports.verification import verify_export
from tests.exports.exports import DESCRIPTION, INDEX, NEW_DESCRIPTION, WEIGHTS, Export

SHARD = WEIGHTS.replace(".safetensors", "-00002-of-00003.safetensors")
NAME = "model.norm.weight"


def no_description(export: Export) -> None:
    (export.folder / DESCRIPTION).unlink()


def broken_json(export: Export) -> None:
    (export.folder / DESCRIPTION).write_text('{"model_quant_type": "W8A8",')


def one_entry_twice(export: Export) -> None:
    text = (export.folder / DESCRIPTION).read_text()
    (export.folder / DESCRIPTION).write_text(text.replace("{", f'{{"{NAME}": "W8A8",', 1))


def copies_differ(export: Export) -> None:
    export.write_description(NEW_DESCRIPTION, export.description)
    export.write_description(DESCRIPTION, export.description | {NAME: "W8A8"})


def truncated(export: Export) -> None:
    raw = (export.folder / WEIGHTS).read_bytes()
    (export.folder / WEIGHTS).write_bytes(raw[:-1])


def no_weights(export: Export) -> None:
    (export.folder / WEIGHTS).unlink()


def truncated_shard(export: Export) -> None:
    export.save(shards=3)
    raw = (export.folder / SHARD).read_bytes()
    (export.folder / SHARD).write_bytes(raw[: len(raw) // 2])


def missing_shard(export: Export) -> None:
    export.save(shards=3)
    (export.folder / SHARD).unlink()


def edit_index(export: Export, edit: Callable[[dict], object]) -> None:
    export.save(shards=3)
    index = json.loads((export.folder / INDEX).read_text())
    edit(index["weight_map"])
    (export.folder / INDEX).write_text(json.dumps(index))


def index_lists_too_much(export: Export) -> None:
    edit_index(export, lambda weight_map: weight_map.update({"model.layers.9.bias": SHARD}))


def index_lists_too_little(export: Export) -> None:
    edit_index(export, lambda weight_map: weight_map.pop(NAME))


def index_in_the_wrong_shard(export: Export) -> None:
    edit_index(
        export,
        lambda weight_map: weight_map.update({NAME: next(iter(set(weight_map.values()) - {weight_map[NAME]}))}),
    )


def index_leaves_the_folder(export: Export) -> None:
    edit_index(export, lambda weight_map: weight_map.update({NAME: "../" + weight_map[NAME]}))


def index_names_an_absolute_path(export: Export) -> None:
    edit_index(export, lambda weight_map: weight_map.update({NAME: "/etc/passwd"}))


def index_without_map(export: Export) -> None:
    export.save(shards=3)
    (export.folder / INDEX).write_text('{"weight_map": []}')


def no_index(export: Export) -> None:
    export.save(shards=3)
    (export.folder / INDEX).unlink()


def shard_outside_the_index(export: Export) -> None:
    export.save(shards=3)
    save_file({}, export.folder / WEIGHTS)


def stored_twice(export: Export) -> None:
    export.save(shards=3)
    index = json.loads((export.folder / INDEX).read_text())["weight_map"]
    file = next(file for file in index.values() if file != index[NAME])
    names = [name for name, where in index.items() if where == file]
    save_file({name: export.tensors[name] for name in [*names, NAME]}, export.folder / file)


@pytest.mark.parametrize(
    ("check", "mutation"),
    [
        ("description", no_description),
        ("description", broken_json),
        ("description", one_entry_twice),
        ("description-copies", copies_differ),
        ("weights", truncated),
        ("weights", no_weights),
        ("weights", truncated_shard),
        ("weights", missing_shard),
        ("index", index_lists_too_much),
        ("index", index_lists_too_little),
        ("index", index_in_the_wrong_shard),
        ("index", index_leaves_the_folder),
        ("index", index_names_an_absolute_path),
        ("index", index_without_map),
        ("index", no_index),
        ("index", shard_outside_the_index),
        ("tensor-once", stored_twice),
    ],
)
def test_a_mutation_is_found_by_one_check(check: str, mutation: Callable[[Export], None], found_by: Callable) -> None:
    found_by(check, mutation)


@pytest.mark.parametrize("names", [[NEW_DESCRIPTION], [DESCRIPTION, NEW_DESCRIPTION]])
def test_either_description_name_is_accepted(names: list[str], export: Export) -> None:
    (export.folder / DESCRIPTION).unlink()
    for name in names:
        export.write_description(name, export.description)
    assert verify_export(export.folder).ok


def test_the_finding_names_file_and_tensor(found_by: Callable) -> None:
    [finding] = found_by("index", index_lists_too_little)
    assert finding.subject == NAME and INDEX in finding.message
