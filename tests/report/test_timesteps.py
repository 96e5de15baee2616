"""Tests the spread of each block's peaks, and heat maps with one cell per timestep."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import pytest

from fa3cli.report.colours import STEPS
from fa3cli.report.data import gather
from fa3cli.report.facts import Facts, LayerFacts, TimestepPeaks
from fa3cli.report.page import page
from fa3cli.report.timesteps import Spread, spread_of, timestep_maps
from tests.exports.exports import Export
from tests.report.exports import layer, report_of, sampled, write_report
from tests.report.html import Page


def facts_of(export: Export, *layers: dict, target: str = "mindie-sd") -> Facts:
    write_report(export.folder, report_of(list(layers), target=target))
    return gather(export.folder)


def with_peaks(layer: LayerFacts, *peaks: tuple[float, float | None]) -> LayerFacts:
    return replace(layer, timesteps=tuple(TimestepPeaks(timestep, peak, None, None) for timestep, peak in peaks))


def test_the_spread_names_the_timestep_of_the_largest_peak(export: Export) -> None:
    first, second = facts_of(export, sampled(0, 5), layer(1)).layers
    assert spread_of(first, "q") == Spread(pytest.approx(2), pytest.approx(2), 920.0)
    assert str(spread_of(first, "k")) == "1.00 at 1000"
    assert spread_of(first, "v") is None and spread_of(second, "q") is None


def test_zero_and_missing_peaks_have_no_spread(export: Export) -> None:
    block = facts_of(export, layer(0)).layers[0]
    assert spread_of(with_peaks(block, (999, 0.0), (500, None)), "q") is None
    assert spread_of(with_peaks(block, (999, 0.0), (500, 3.0), (1, 1.5), (0.5, -1)), "q") == Spread(2, 3, 500)


def test_a_repeated_timestep_has_one_cell(export: Export) -> None:
    """Second-order samplers call the model twice per timestep."""
    facts = facts_of(export, layer(0))
    block = with_peaks(facts.layers[0], (999, 1.0), (999, 4.0), (1, 2.0))
    [q] = timestep_maps(replace(facts, layers=(block,)))
    assert [cell.text[:3] for cell in q.rows[0].cells] == ["100", "50."]


def test_rows_are_blocks_and_columns_timesteps(export: Export) -> None:
    q, k = timestep_maps(facts_of(export, sampled(0, 5), layer(1)))
    assert (q.part, q.column, q.columns, q.written) == ("block", "timestep", 5, True)
    assert q.groups == tuple((str(timestep), 1) for timestep in (1000, 980, 960, 940, 920))
    first, second = q.rows
    steps = [cell.step for cell in first.cells]
    assert all(one < other for one, other in pairwise(steps)) and steps[0] == 0 and steps[-1] == STEPS - 1
    assert re.match(r"block 0, timestep 960: 1.41, 70.7.% of its largest", first.cells[2].title)
    assert (second.cells, second.span) == ((), "–")
    assert {cell.step for cell in k.rows[0].cells} == {STEPS - 1}
    assert q.extremes == "Largest ratio in block 0: up to 2.00 at timestep 920, 2.00 times its smallest."


def test_many_timesteps_have_group_headings(export: Export) -> None:
    q, _ = timestep_maps(facts_of(export, sampled(0, 20), sampled(1, 20)))
    assert q.groups == (("1000–860", 8), ("840–700", 8), ("680–620", 4)) and not q.written
    assert [row.span for row in q.rows] == ["2.00 at 620"] * 2


def test_a_missing_timestep_has_a_cell_without_colour(export: Export) -> None:
    q, _ = timestep_maps(facts_of(export, sampled(0, 3), sampled(1, 4)))
    assert [cell.step is None for cell in q.rows[0].cells] == [False, False, False, True]


def test_the_page_shows_timesteps_and_calls_layers_blocks(export: Export) -> None:
    html = page(facts_of(export, sampled(0, 5), sampled(1, 5)))
    parsed = Page(html)
    assert "Largest values over the timesteps" in parsed.text and "Block by block" in parsed.text
    assert sum("timestep" in title for title in parsed.cells()) == 2 * 2 * 5
    assert re.findall(".*layer.*", parsed.text, re.IGNORECASE) == ["MindIE stops at layers without FA3 tensors"]
    assert "script" not in {tag for tag, _ in parsed.elements}
    assert ("a", {"href": "#timesteps"}) in parsed.elements


def test_the_page_shows_differences_of_images(export: Export) -> None:
    found = {"prompts": 2, "psnr": [41.26, None], "mean_psnr": 41.26, "largest_difference": 0.25}
    write_report(export.folder, report_of([layer(0)], target="mindie-sd", comparison=found))
    text = Page(page(gather(export.folder))).text
    assert text.count("41.3\N{NO-BREAK SPACE}dB") == 3 and "mean of 2 prompts" in text and "0.250" in text
    assert "erplexity" not in text and "fa3 verify" not in text
    write_report(export.folder, report_of([layer(0)], target="mindie-sd", comparison=None))
    assert "--against PIPELINE_DIR --eval PROMPTS" in Page(page(gather(export.folder))).text


def test_language_models_have_layers_and_no_timesteps(export: Export) -> None:
    parsed = Page(page(facts_of(export, layer(0), layer(1), target="modelslim")))
    assert "timestep" not in parsed.text.lower() and "block" not in parsed.text.lower()


def test_all_rows_of_a_heat_map_have_the_same_width(export: Export) -> None:
    html = page(facts_of(export, sampled(0, 20), layer(1)))
    tables = re.findall(r"<table>\n<caption>Largest ratio.*?</table>", html, re.DOTALL)
    assert len(tables) == 2
    for table in tables:
        widths = {
            len(re.findall(r"<t[dh]", row)) + sum(int(span) - 1 for span in re.findall(r'colspan="(\d+)"', row))
            for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)
        }
        assert widths == {22}
