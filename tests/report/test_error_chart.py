"""Tests the proportions of the chart of errors."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fa3cli.report.data import gather
from fa3cli.report.error_chart import error_chart
from tests.exports.exports import Export


def test_bars_and_line_have_the_same_scale(export: Export) -> None:
    chart = error_chart(gather(export.folder))
    assert chart.top == 0.03
    assert [bar.height for bar in chart.bars] == pytest.approx([100, 200 / 3])
    assert [y for _, y in chart.line] == pytest.approx([200 / 3, 100 / 3])


def test_there_is_no_chart_without_errors(export: Export) -> None:
    facts = gather(export.folder)
    unmeasured = tuple(replace(layer, error=None, accumulated_error=None) for layer in facts.layers)
    assert error_chart(replace(facts, layers=unmeasured)) is None


def test_errors_of_zero_have_bars_of_height_zero(export: Export) -> None:
    facts = gather(export.folder)
    exact = tuple(replace(layer, error=0.0, accumulated_error=None) for layer in facts.layers)
    assert [bar.height for bar in error_chart(replace(facts, layers=exact)).bars] == [0, 0]
