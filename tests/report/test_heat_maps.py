"""Tests that a heat map has one cell per head, and tells where the extremes are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fa3cli.report.colours import STEPS
from fa3cli.report.data import gather
from fa3cli.report.heat_maps import heat_maps
from tests.exports.exports import Export
from tests.report.exports import write_heads


def test_rows_are_layers_and_columns_heads(export: Export) -> None:
    maps = {heat_map.role: heat_map for heat_map in heat_maps(gather(export.folder))}
    assert {role: heat_map.columns for role, heat_map in maps.items()} == {"q": 4, "k": 2, "v": 2}
    first, second = maps["q"].rows
    assert (first.label, len(first.cells), second.cells, second.span) == ("0", 4, (), "float")
    scale = export.tensors["model.layers.0.self_attn.fa_q.scale"].flatten()
    assert first.cells[2].title == f"layer 0, head 2: {scale[2].item():#.3g}"
    steps = [cell.step for cell in first.cells]
    assert steps[scale.argmax()] == max(steps) and steps[scale.argmin()] == min(steps)
    assert f"head {scale.argmax()})." in maps["q"].extremes


def test_many_heads_have_group_headings(tmp_path: Path) -> None:
    write_heads(tmp_path / "large", layers=2, heads=40, kv_heads=17)
    q, k, _ = heat_maps(gather(tmp_path / "large"))
    assert q.groups[0] == ("0–7", 8) and sum(width for _, width in q.groups) == 40
    assert k.groups == (("0–7", 8), ("8–15", 8), ("16", 1))


def test_values_without_a_logarithm_have_no_colour(export: Export) -> None:
    facts = gather(export.folder)
    scales = replace(facts.scales[0], values=(None, 0.0, 1.0, 4.0))
    [q] = heat_maps(replace(facts, scales=(scales,)))
    assert [cell.step for cell in q.rows[0].cells] == [None, None, 0, STEPS - 1]
    [q] = heat_maps(replace(facts, scales=(replace(scales, values=(None, None)),)))
    assert q.range is None and q.rows[0].span == "–"


def test_two_attentions_in_a_layer_are_two_rows(export: Export) -> None:
    facts = gather(export.folder)
    other = replace(facts.scales[0], module="model.layers.0.cross_attn")
    q = heat_maps(replace(facts, scales=(*facts.scales, other)))[0]
    assert [row.label for row in q.rows] == ["0 self_attn", "0 cross_attn", "1"]
