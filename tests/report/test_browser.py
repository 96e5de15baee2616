"""Tests the page in a browser: wide and narrow, light and dark, and printed."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from fa3cli.report.data import gather
from fa3cli.report.facts import FloatModule
from fa3cli.report.page import write_page
from tests.exports.pipelines import write_flux
from tests.report.browser import NEEDS_BROWSER, measure, print_to_pdf
from tests.report.exports import write_export, write_heads

pytestmark = NEEDS_BROWSER

CELLS = 80 * (64 + 8 + 8)
SECTIONS = [
    "Summary",
    "Warnings and unknown facts",
    "Accuracy on text",
    "Error per layer",
    "Scales of q, k and v",
    "Modules that stayed float, and why",
    "Layer by layer",
    "Settings",
    "Versions, machine and hashes",
]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the page of a model of 70B shape."""
    folder = tmp_path_factory.mktemp("large")
    write_heads(folder / "model", layers=80, heads=64, kv_heads=8)
    write_page(gather(folder / "model"), folder / "report.html")
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a folder with the page of a model of two layers, one of them without FA3."""
    write_export(tmp_path / "model")
    write_page(gather(tmp_path / "model"), tmp_path / "report.html")
    return tmp_path


def test_the_page_loads_without_other_files_or_console_messages(large: Path) -> None:
    found, console, requested = measure(large)
    assert console == []
    assert found["loaded"] == [] and requested == ["/harness.html", "/report.html"]
    assert found["headings"] == SECTIONS


def test_every_head_has_a_visible_cell(large: Path) -> None:
    found, _, _ = measure(large)
    assert found["cells"] == CELLS and found["invisible"] == 0
    assert found["colours"] > 16


def test_light_and_dark_schemes_differ(large: Path) -> None:
    light, dark = measure(large)[0], measure(large, dark=True)[0]
    assert _brightness(light["background"]) > 240 > 240 - _brightness(dark["background"]) > 200
    assert _brightness(light["ink"]) < 60 and _brightness(dark["ink"]) > 200
    assert dark["colours"] > 16 and dark["headings"] == SECTIONS


@pytest.mark.parametrize("width", [400, 800])
def test_nothing_overflows(large: Path, small: Path, width: int) -> None:
    for folder in (large, small):
        found, _, _ = measure(folder, width=width)
        assert found["room"] <= width and found["width"] <= found["room"]
        assert found["invisible"] == 0


def test_long_names_do_not_overflow(tmp_path: Path) -> None:
    long = "x" * 300
    facts = gather(write_export(tmp_path / "model").folder)
    layers = tuple(
        replace(layer, name=f"{long}.{index}", float_linears=(FloatModule(f"{long}.{index}.{long}", long),))
        for index, layer in enumerate(facts.layers)
    )
    odd = replace(
        facts,
        name=long,
        folder=long,
        architecture=long,
        target=long,
        warnings=(long,),
        layers=(*layers, replace(layers[0], name=f"y{long}.0")),
        scales=tuple(replace(scale, layer=f"{long}.0") for scale in facts.scales),
        origin=replace(facts.origin, settings={long: long}, versions={long: long}, recipe=long),
        accuracy=None,
    )
    write_page(odd, tmp_path / "report.html")
    found, _, _ = measure(tmp_path, width=400)
    assert found["width"] <= found["room"] and found["cells"] == 8


def test_values_beside_long_names_are_not_clipped(tmp_path: Path) -> None:
    write_flux(tmp_path / "model")
    write_page(gather(tmp_path / "model"), tmp_path / "report.html")
    found, _, _ = measure(tmp_path)
    assert found["cells"] > 0 and found["clipped"] == 0


def test_the_harness_detects_errors_of_a_page(tmp_path: Path) -> None:
    """The page loads a file, logs an error and overflows."""
    (tmp_path / "report.html").write_text(
        '<body style="width:5000px"><img src="missing.png"><script>console.error("wrong")</script>'
    )
    found, console, requested = measure(tmp_path, width=400)
    assert len(found["loaded"]) == 1 and "/missing.png" in requested
    assert any("wrong" in line for line in console)
    assert found["width"] > found["room"]


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext (poppler-utils) is not on PATH")
def test_the_printed_page_has_all_sections_and_rows(large: Path, small: Path) -> None:
    for folder, layers in ((large, 80), (small, 2)):
        command = ["pdftotext", "-layout", str(print_to_pdf(folder)), "-"]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert [section for section in SECTIONS if section not in text] == []
        numbers = [line.split()[0] for line in text.splitlines() if line.split()]
        assert all(numbers.count(str(layer)) >= 2 for layer in range(layers))
        assert "fa3 quantization report" in text.lower() and "0123456789abcdef" * 4 in text.replace("\n", "")


def _brightness(colour: str) -> float:
    """Return the mean of `rgb(r, g, b)`."""
    parts = [float(part) for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
    return sum(parts) / len(parts)
