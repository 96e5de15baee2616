"""`.fa3/patch.json`: what a patch was made of and did, so that it can be undone and its age be seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fa3cli.errors import ConflictError
from fa3cli.patching.edits import Edit

__all__ = ["RECEIPT", "Change", "Options", "Receipt", "read_receipt", "sha256"]

RECEIPT = Path(".fa3", "patch.json")


def sha256(data: bytes) -> str:
    """The digest a receipt knows a file by."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Change:
    """What becomes of one text: digests before and after, and the edits between."""

    before: str
    after: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Options:
    """What a user asked for besides the folder; each is named like its option of `fa3 patch`."""

    attention: tuple[str, ...] = ()
    modeling: str | None = None
    quantizer: str = "fa3cli"
    rules: str | None = None


@dataclass(frozen=True)
class Receipt:
    """One patch. `source` is the modeling file it started from, `link` what config.json pointed to if it was a link.

    `rules` counts what fa3 knows of itself, `rule_files` are the files of rules that had a say, with their digests.
    """

    fa3cli: str
    rules: int
    transformers: str
    options: Options
    source: str
    module: str
    modeling: Change
    config: Change
    auto_map_before: dict[str, Any] | None
    link: str | None = None
    rule_files: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


def read_receipt(folder: Path) -> Receipt | None:
    """The receipt of a folder, None without one; ConflictError if it can't be read."""
    path = folder / RECEIPT
    try:
        data = json.loads(path.read_bytes())
        for key in ("modeling", "config"):
            data[key]["edits"] = tuple(Edit(**edit) for edit in data[key]["edits"])
            data[key] = Change(**data[key])
        data["options"]["attention"] = tuple(data["options"]["attention"])
        data["options"] = Options(**data["options"])
        receipt = Receipt(**data)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConflictError(
            f"{path} is not a receipt fa3 can read ({error})",
            hint="restore it; or remove it, the patched file and the auto_map entry, then patch again",
        ) from None
    if Path(receipt.module).name != receipt.module or not receipt.module.endswith(".py"):
        raise ConflictError(f"{path} names a file outside its folder: {receipt.module}")
    return receipt
