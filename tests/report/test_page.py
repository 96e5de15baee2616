"""Tests that the page is complete, well formed, safe with any name, and self-contained."""

from __future__ import annotations

import json
import os
import re
import stat
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from fa3cli.errors import ConflictError, InvalidInputError
from fa3cli.report.data import gather
from fa3cli.report.page import page, write_page
from tests.exports.exports import Export, build_export
from tests.report.exports import layer, report_of, write_heads, write_report
from tests.report.html import Page

HOSTILE = "<script>alert(1)</script>\"'&amp;"
LOADING = ("src", "href", "srcset", "action", "data", "poster", "background")


def loaded(html: str) -> list[str]:
    """Return the addresses outside the page that it refers to."""
    attributes = [pair for _, attributes in Page(html).elements for pair in attributes.items()]
    return [value for name, value in attributes if name in LOADING and not value.startswith("#") and value != "data:,"]


def test_the_page_contains_the_facts(export: Export) -> None:
    text = Page(page(gather(export.folder))).text
    for fact in (
        "model-w8a8-fa3",
        "LlamaForCausalLM",
        "29.484",
        "+0.04",
        "98.38",
        "named by disable_names",
        "by fa_amp",
        "qwen2.5-72b",
        "12 samples with 345 tokens",
        "2.13.0",
        "0123456789abcdef" * 4,
        "MindIE stops at layers without FA3 tensors",
    ):
        assert fact in text, fact
    assert "fa3 verify" not in text


def test_cell_titles_contain_the_stored_scales(export: Export) -> None:
    titles = Page(page(gather(export.folder))).cells()
    expected = [
        f"layer 0, head {head}: {value:#.3g}"
        for role in "qkv"
        for head, value in enumerate(export.tensors[f"model.layers.0.self_attn.fa_{role}.scale"].flatten().tolist())
    ]
    assert titles == expected


def test_the_page_has_the_command_that_serves_the_export(tmp_path: Path) -> None:
    command = f"torchrun --nproc_per_node 1 -m examples.run_pa --model_path '{tmp_path / 'a & b'}'"
    export = build_export(tmp_path / "a & b", torch.bfloat16)
    assert command in Page(page(gather(export.folder))).text
    write_report(export.folder, report_of([layer(0), layer(1, fa=False)]))
    for name in ("fa_q.scale", "fa_k.scale", "fa_v.scale"):
        export.drop(f"model.layers.1.self_attn.{name}")
    export.save()
    text = Page(page(gather(export.folder))).text
    assert command not in text and "no engine reads this export" in text


def test_the_page_names_unknown_facts(tmp_path: Path) -> None:
    text = Page(page(gather(build_export(tmp_path).folder))).text
    for fact in (
        "not measured",
        "fa3 verify",
        "--against",
        "not recorded",
        "Not recorded in this export",
        "there is no",
    ):
        assert fact in text, fact


def test_the_page_loads_nothing_and_has_no_scripts(export: Export) -> None:
    html = page(gather(export.folder))
    assert loaded(html) == [] and re.findall(r"url\(|@import|https?://", html) == []
    assert "default-src 'none'" in html
    tags = {tag for tag, _ in Page(html).elements}
    assert tags.isdisjoint({"script", "iframe", "object", "embed", "img", "form", "base"})


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    export = build_export(folder)
    export.config |= {"model_type": HOSTILE, "architectures": [HOSTILE]}
    export.add(
        f"model.layers.0.{HOSTILE}.fa_q.scale",
        export.tensors["model.layers.0.self_attn.fa_q.scale"] * 2,
        "FAQuant",
    )
    export.add(f"{HOSTILE}.weight", export.tensors["lm_head.weight"] * 2, "FLOAT")
    export.save()
    hostile = layer(0) | {"float_linears": {HOSTILE: HOSTILE}, "fa": False, "fa_reason": HOSTILE}
    report = report_of([hostile, layer(1) | {"name": HOSTILE}], recipe=HOSTILE, target=HOSTILE)
    report["identity"] |= {
        HOSTILE: HOSTILE,
        "settings": {HOSTILE: [HOSTILE]},
        "versions": {HOSTILE: {HOSTILE: 1}},
    }
    report["result"]["warnings"] = [HOSTILE]
    write_report(folder, report)
    html = page(gather(folder))
    parsed = Page(html)
    assert {tag for tag, _ in parsed.elements}.isdisjoint({"script", "img"})
    assert all(not name.startswith("on") for _, attributes in parsed.elements for name in attributes)
    assert parsed.text.count(HOSTILE) >= 8
    assert loaded(html) == []


@pytest.mark.parametrize("whole", [True, False])
def test_the_page_is_accessible_to_screen_readers(export: Export, whole: bool) -> None:
    if not whole:
        (export.folder / "fa3_report.json").unlink()
    elements = Page(page(gather(export.folder))).elements
    assert ("html", {"lang": "en"}) in elements
    assert all("scope" in attributes for tag, attributes in elements if tag == "th")
    levels = [int(tag[1]) for tag, _ in elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"] for tag, attributes in elements if tag == "a"}
    labels = {attributes["aria-labelledby"] for _, attributes in elements if "aria-labelledby" in attributes}
    assert links <= {f"#{name}" for name in ids} and labels <= set(ids)


def test_all_rows_of_a_heat_map_have_the_same_width(export: Export) -> None:
    """All rows of a heat map have as many columns as its heading."""
    html = page(gather(export.folder))
    for table in re.findall(r"<table>\n<caption>Smallest.*?</table>", html, re.DOTALL):
        rows = re.findall(r"<tr>.*?</tr>", table, re.DOTALL)
        widths = {
            len(re.findall(r"<t[dh]", row)) + sum(int(span) - 1 for span in re.findall(r'colspan="(\d+)"', row))
            for row in rows
        }
        assert len(rows) == 3 and len(widths) == 1


def test_a_page_of_80_layers_is_small(tmp_path: Path) -> None:
    write_heads(tmp_path / "large", layers=80, heads=64, kv_heads=8)
    html = page(gather(tmp_path / "large"))
    assert len(Page(html).cells()) == 80 * (64 + 8 + 8)
    assert len(html.encode()) < 500_000


def test_text_is_legible_in_both_schemes() -> None:
    from fa3cli.report.colours import contrast

    css = (Path(__file__).parents[2] / "fa3cli/data/report/page.css").read_text()
    light, dark = (
        dict(re.findall(r"--([\w-]+):(#\w+)", block)) for block in re.findall(r":root\{(.*?)\}", css, re.DOTALL)[:2]
    )
    assert light.keys() == dark.keys()
    for colours in (light, dark):
        full = {
            name: value if len(value) == 7 else "#" + "".join(2 * c for c in value[1:])
            for name, value in colours.items()
        }
        for ink in ("ink", "quiet", "accent"):
            for background in ("paper", "card", "worst"):
                assert contrast(full[ink], full[background]) >= 4.5, (ink, background)


def test_the_file_is_written_completely_or_not_at_all(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, file = gather(export.folder), tmp_path / "report.html"
    write_page(facts, file)
    assert file.read_text(encoding="utf-8") == page(facts)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match="disk full"):
        write_page(facts, tmp_path / "other.html")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("place", ["missing/report.html", "."])
def test_a_path_that_cannot_be_written_is_an_error(export: Export, tmp_path: Path, place: str) -> None:
    with pytest.raises(InvalidInputError) as error:
        write_page(gather(export.folder), tmp_path / place)
    assert error.value.hint


def test_the_same_export_gives_the_same_page(export: Export) -> None:
    assert page(gather(export.folder)) == page(gather(export.folder))
    assert json.loads((export.folder / "fa3_report.json").read_text())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_export_for_vllm_ascend_has_a_page(tmp_path: Path, dtype: torch.dtype) -> None:
    export = build_export(tmp_path, dtype)
    for name in [name for name in export.tensors if ".fa_" in name]:
        export.drop(name)
    for number in range(2):
        for role, scale in (("k", 0.5), ("v", 2.0)):
            scales = torch.tensor([scale, 2 * scale], dtype=dtype).repeat_interleave(8)
            export.add(f"model.layers.{number}.self_attn.{role}_proj.kv_cache_scale", scales, "C8")
    export.description["kv_cache_type"] = "C8"
    export.save()
    facts = gather(export.folder)
    parsed = Page(page(facts))
    assert facts.target == "vllm-ascend" and "q has no scales in this export" in parsed.text
    assert parsed.cells()[:2] == ["layer 0, head 0: 0.500", "layer 0, head 1: 1.00"]
    assert len(parsed.cells()) == 2 * 2 * 2


@pytest.mark.parametrize("content", [b"{}", b"<!doctype html>\n<title>mine</title>", b"\0" * 5000])
def test_a_file_that_is_not_a_page_is_not_replaced(export: Export, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(ConflictError, match=r"model\.safetensors: exists and is not a page of fa3 report") as error:
        write_page(gather(export.folder), file)
    assert error.value.hint == "choose another file" and file.read_bytes() == content


def test_a_page_and_an_empty_file_are_replaced(export: Export, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.touch()
    (tmp_path / ".fa3-0123456789abcdef.tmp").write_text("left by a process that was killed")
    for _ in range(2):
        write_page(gather(export.folder), file)
    assert file.read_text(encoding="utf-8") == page(gather(export.folder))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["report.html"]


def test_a_device_is_not_replaced(export: Export, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("pipe", "null"):
        with pytest.raises(ConflictError, match="not a regular file"):
            write_page(gather(export.folder), tmp_path / name)
