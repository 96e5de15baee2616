"""Opens pages in headless Chromium, run as a command: no driver, no downloads."""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

__all__ = ["BROWSER", "NEEDS_BROWSER", "Site", "measure", "print_to_pdf", "serve"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, _NAMES)), None)
NEEDS_BROWSER = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(_NAMES)} is on PATH")

# A page that loads the report in a frame of a given width, and writes measurements of it as json.
_HARNESS = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><pre id="found"></pre>
<iframe src="report.html" style="border:0;width:{width}px;height:900px"></iframe>
<script>
document.querySelector("iframe").onload = event => {{
  const {{document: page, performance, getComputedStyle}} = event.target.contentWindow;
  const root = page.scrollingElement;
  const cells = [...page.querySelectorAll(".map td[title]")];
  document.getElementById("found").textContent = JSON.stringify({{
    loaded: performance.getEntriesByType("resource").map(entry => entry.name),
    cells: cells.length,
    invisible: cells.filter(cell => cell.offsetWidth < 1 || cell.offsetHeight < 1).length,
    clipped: cells.filter(cell => cell.scrollWidth > cell.clientWidth).length,
    colours: new Set(cells.map(cell => getComputedStyle(cell).backgroundColor)).size,
    background: getComputedStyle(page.body).backgroundColor,
    ink: getComputedStyle(page.body).color,
    width: root.scrollWidth,
    room: root.clientWidth,
    headings: [...page.querySelectorAll("h2")].map(heading => heading.textContent),
  }});
}};
</script>
"""


@dataclass
class Site:
    """A served folder: its address, and the paths that were requested."""

    address: str
    requested: list[str] = field(default_factory=list)


@contextmanager
def serve(folder: Path) -> Iterator[Site]:
    """Serve a folder to this machine only."""
    site = Site("")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            site.requested.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    site.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()


def measure(folder: Path, *, width: int = 1200, dark: bool = False) -> tuple[dict[str, Any], list[str], list[str]]:
    """Open report.html of a folder; return measurements of it, console lines, and the requested paths."""
    (folder / "harness.html").write_text(_HARNESS.format(width=width), encoding="utf-8")
    with serve(folder) as site:
        scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
        run = _run(folder, scheme, "--dump-dom", "--virtual-time-budget=5000", f"{site.address}/harness.html")
    found = re.search(r'<pre id="found">(.+?)</pre>', run.stdout, re.DOTALL)
    assert found, f"the page did not load:\n{run.stdout[-500:]}\n{run.stderr[-2000:]}"
    console = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(found[1].replace("&amp;", "&")), console, site.requested


def print_to_pdf(folder: Path) -> Path:
    """Print report.html of a folder; return the PDF."""
    file = folder / "report.pdf"
    _run(folder, "--no-pdf-header-footer", f"--print-to-pdf={file}", (folder / "report.html").as_uri())
    return file


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        BROWSER,
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        f"--user-data-dir={folder / 'profile'}",
        *("--enable-logging=stderr", "--v=0"),
        *arguments,
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=120)
