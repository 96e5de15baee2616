"""Survey every diffusers version and write docs/supported-transformers.md: `make supported-transformers`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.patching.diffusion.environments import VERSIONS, python
from tests.patching.diffusion.table import render
from tests.patching.matrix.environments import ROOT, variables


def main() -> None:
    found = [_survey(version) for version in (*VERSIONS, None)]
    text = render({survey["version"]: survey["transformers"] for survey in found})
    (ROOT / "docs" / "supported-transformers.md").write_text(text, "utf-8")


def _survey(version: str | None) -> dict[str, Any]:
    path = python(version)
    if path is None:
        raise FileNotFoundError(f"no environment for diffusers {version or ''}")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [str(path), "-m", "tests.patching.diffusion.survey", folder],
            cwd=ROOT, env=variables(Path(folder) / "modules"), stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    print(version or "newest", file=sys.stderr)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
