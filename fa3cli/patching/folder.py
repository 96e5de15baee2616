"""The state of a weights folder: unpatched, patched by fa3, patched and changed since, or someone else's."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fa3cli.errors import ConflictError, Fa3Error, InvalidInputError, UnsupportedError
from fa3cli.patching.codemod import RULES, PatchedSource, patch_source
from fa3cli.patching.config_json import CAUSAL_LM, Config, read_config, take_out
from fa3cli.patching.edits import reverse
from fa3cli.patching.imports import outside_imports, transformers_imports
from fa3cli.patching.installed import Installed, installed_transformers
from fa3cli.patching.receipt import RECEIPT, Receipt, read_receipt, sha256
from fa3cli.patching.source import parse

__all__ = [
    "Disk",
    "PatchStatus",
    "from_installed",
    "look",
    "module_name",
    "original_config",
    "read_source",
    "status",
    "unpatched_config",
]


@dataclass(frozen=True)
class PatchStatus:
    """What a folder's patch is worth.

    `state` is unpatched, patched, stale (made from another source or by older rules), edited (changed since) or
    foreign (not fa3's), with the `reason`. `reproducible` means that patching the *installed* transformers'
    source again gives the very bytes of `module`, and that config.json maps nothing else to code of the folder.
    """

    state: str
    reproducible: bool = False
    module: Path | None = None
    class_name: str | None = None
    attention: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class Disk:
    """What lies in a folder, before it is judged against the installed transformers."""

    config: Config
    receipt: Receipt | None
    edited: str | None = None
    foreign: str | None = None


def look(folder: Path) -> Disk:
    """Read a folder's config.json and receipt, and compare its files with the receipt."""
    config, receipt = read_config(folder / "config.json"), read_receipt(folder)
    if receipt is None:
        return Disk(config, None, foreign=_foreign(folder, config))
    module = folder / receipt.module
    changed = []
    if module.exists() and sha256(module.read_bytes()) != receipt.modeling.after:
        changed.append(receipt.module)
    if sha256(config.text.encode()) not in (receipt.config.before, receipt.config.after):
        changed.append("config.json")
    return Disk(
        config, receipt, edited=" and ".join(changed) + " changed since fa3 wrote it" if changed else None
    )


def original_config(disk: Disk) -> Config:
    """config.json as it was without fa3's edits; changes made by hand since stay in it."""
    if disk.receipt is None:
        return disk.config
    change, digest = disk.receipt.config, sha256(disk.config.text.encode())
    if digest == change.before:
        return disk.config
    edits = list(change.edits)
    text = reverse(disk.config.text, edits) if digest == change.after else take_out(disk.config, edits)
    return read_config(disk.config.path, text)


def unpatched_config(folder: str | Path) -> dict[str, Any]:
    """What config.json says without fa3's edits."""
    return original_config(look(Path(folder))).data


def from_installed(
    installed: Installed,
    config: Config,
    attention: tuple[str, ...],
    quantizer: str,
    modeling: Path | None = None,
) -> tuple[Path, bytes, str, PatchedSource]:
    """Patch the installed transformers' modeling file (or `modeling`): its path, its bytes, the class, the result."""
    found = installed.modeling_file(config.model_type)
    path = modeling or found.path
    architecture = config.architecture or found.causal_lm
    if architecture != found.causal_lm and modeling is None:
        raise UnsupportedError(
            f"{config.path}: architectures[0] is {architecture}, the causal language model of {config.model_type} "
            f"is {found.causal_lm}"
        )
    data = read_source(path)
    patched = patch_source(
        data,
        name=str(path),
        package=found.package,
        architecture=architecture,
        attention=attention,
        quantizer=quantizer,
        native_class=installed.knows_custom_code,
    )
    _check_imports(installed, path, data)
    if modeling:
        _check_version(installed, path, patched.text)
    return path, data, architecture, patched


def _check_imports(installed: Installed, path: Path, data: bytes) -> None:
    """Refuse a file that imports a package this environment hasn't."""
    for package, (line, guarded) in outside_imports(parse(data, str(path))).items():
        wanted = not guarded or installed.checks_guarded_imports
        if wanted and package not in ("flash_attn", "fa3cli") and importlib.util.find_spec(package) is None:
            raise UnsupportedError(
                f"{path}:{line}: imports {package}, which is not installed: transformers refuses to load such a file",
                hint=f"install {package}",
            )


def _check_version(installed: Installed, path: Path, text: str) -> None:
    """Refuse a file that imports what the installed transformers hasn't."""
    lacking = [each for each in transformers_imports(text) if installed.lacks(*each[1:])]
    if lacking:
        names = ", ".join(f"{name} of {module}" for _, module, name in lacking)
        raise UnsupportedError(
            f"{path}: made for another transformers than the installed {installed.version}, which lacks {names}"
        )


def read_source(path: Path) -> bytes:
    """The bytes of a modeling file; InvalidInputError if it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"modeling file {path}: {error.strerror}") from None


def status(folder: str | Path) -> PatchStatus:
    """Judge the patch of a folder; broken folders raise as `plan` does, an unreadable receipt is foreign."""
    folder = Path(folder)
    try:
        disk = look(folder)
    except ConflictError as error:
        return PatchStatus("foreign", reason=str(error))
    target = disk.config.auto_map.get(CAUSAL_LM)
    stem, _, class_name = str(target or "").rpartition(".")
    module = folder / f"{stem}.py" if target else None
    if disk.receipt is None:
        state = "foreign" if disk.foreign else "unpatched"
        return PatchStatus(state, False, module, class_name or None, reason=disk.foreign)
    receipt = disk.receipt
    if disk.edited:
        return PatchStatus("edited", False, module, class_name or None, reason=disk.edited)
    whole = (folder / receipt.module).exists() and sha256(disk.config.text.encode()) == receipt.config.after
    try:
        path = Path(receipt.source) if receipt.given else None
        _, _, architecture, again = from_installed(
            installed_transformers(), original_config(disk), receipt.attention, receipt.quantizer, path
        )
    except (Fa3Error, OSError) as error:
        return PatchStatus("stale", False, module, class_name or None, reason=str(error))
    same = whole and (folder / receipt.module).read_bytes() == again.text.encode()
    mapped = disk.config.auto_map == {CAUSAL_LM: f"{receipt.module.removesuffix('.py')}.{architecture}"}
    names = tuple(each.name for each in again.attention)
    reason = None if same else _stale_reason(receipt, folder / receipt.module, whole)
    reproducible = same and mapped and not receipt.given and receipt.quantizer == "fa3cli"
    return PatchStatus(
        "patched" if same else "stale", reproducible, module, class_name or None, names, reason
    )


def _stale_reason(receipt: Receipt, module: Path, whole: bool) -> str:
    if not module.exists():
        return "is missing"
    if not whole:
        return "an earlier run was cut off before it had written everything"
    version = installed_transformers().version
    if receipt.transformers != version:
        return f"patched with transformers {receipt.transformers}, installed is {version}"
    if receipt.rules != RULES:
        return f"patched by rules {receipt.rules}, today's are {RULES}"
    return "the source it was made from has changed"


def _foreign(folder: Path, config: Config) -> str | None:
    """Why a folder without receipt isn't ours to patch; None if it is."""
    target = config.auto_map.get(CAUSAL_LM)
    if target:
        return f"{config.path}: auto_map already lets {CAUSAL_LM} load {target}, and there is no {RECEIPT} of fa3"
    module = folder / module_name(config.model_type)
    if module.exists() or module.is_symlink():
        return f"{module} exists, and there is no {RECEIPT} of fa3"
    return None


def module_name(model_type: str) -> str:
    """The name of the patched file."""
    stem = "".join(each if each.isalnum() else "_" for each in model_type)
    return f"modeling_{stem}_fa3.py"
