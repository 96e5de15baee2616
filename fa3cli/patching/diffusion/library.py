"""Reads the installed diffusers package as files, without importing it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from fa3cli.errors import MissingCapabilityError, UnsupportedError

__all__ = ["PACKAGE", "Diffusers", "installed_diffusers"]

# The package of the transformers' relative imports.
PACKAGE = "diffusers.models.transformers"


@dataclass(frozen=True)
class Diffusers:
    """A diffusers package: its folder and its version."""

    folder: Path
    version: str

    def defines(self, class_name: str) -> bool:
        """Tell whether this version defines a transformer class of that name."""
        return bool(self._files(class_name))

    def transformer_file(self, class_name: str) -> Path:
        """Return the file of a transformer class; raises UnsupportedError if this version does not have exactly one."""
        files = self._files(class_name)
        if len(files) != 1:
            raise UnsupportedError(
                f"diffusers {self.version} has {len(files) or 'no'} transformers called {class_name}",
                hint="another diffusers version may have it",
            )
        return files[0]

    def module_file(self, module: str) -> Path | None:
        """Return the file of a module, by its full name; None for a package or a missing module."""
        first, *rest = module.split(".")
        path = self.folder.joinpath(*rest).with_suffix(".py") if first == "diffusers" and rest else None
        return path if path and path.is_file() else None

    def _files(self, class_name: str) -> list[Path]:
        pattern = re.compile(rf"^class {re.escape(class_name)}\b".encode(), re.MULTILINE)
        paths = sorted(self.folder.joinpath("models", "transformers").glob("*.py"))
        return [path for path in paths if pattern.search(path.read_bytes())]


def installed_diffusers() -> Diffusers:
    """Find the package that `import diffusers` would load; raises MissingCapabilityError if there is none."""
    spec = importlib.util.find_spec("diffusers")
    if spec is None or not spec.origin:
        raise MissingCapabilityError("diffusers is not installed", hint="pip install diffusers")
    return Diffusers(Path(spec.origin).parent, importlib.metadata.version("diffusers"))
