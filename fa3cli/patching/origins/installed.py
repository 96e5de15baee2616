"""Reads the installed transformers package as files: an import would take seconds and need torch."""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from fa3cli.errors import MissingCapabilityError, UnsupportedError

__all__ = ["OLDEST", "Installed", "ModelingFile", "installed_transformers"]

# The oldest version whose files fa3 patches; it has everything that the guide's models need.
OLDEST = "4.43"


@dataclass(frozen=True)
class ModelingFile:
    """The code of a model type: the file, the package of its relative imports, and the causal LM class."""

    path: Path
    package: str
    causal_lm: str


@dataclass(frozen=True)
class Installed:
    """A transformers package: its folder and its version."""

    folder: Path
    version: str

    @property
    def knows_custom_code(self) -> bool:
        """Whether this version treats models from outside of the package as custom code (5.13.1 and newer)."""
        return "def is_custom_code" in self._text("modeling_utils.py")

    @property
    def causal_lms(self) -> dict[str, str]:
        """The causal language model class of each model type."""
        return self._mapping("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")

    def knows(self, model_type: str) -> bool:
        """Tell whether this version has a causal language model of a type."""
        return model_type in self.causal_lms

    def config_class(self, model_type: str) -> str | None:
        """Return the name of the configuration class of a model type."""
        return self._mapping("CONFIG_MAPPING_NAMES").get(model_type)

    def modeling_file(self, model_type: str) -> ModelingFile:
        """Find the modeling file of a model type; UnsupportedError names similar known types if there is none."""
        causal_lm = self.causal_lms
        if model_type not in causal_lm:
            near = difflib.get_close_matches(model_type, causal_lm, n=3) or ["llama", "qwen2"]
            raise UnsupportedError(
                f"transformers {self.version} has no causal language model of model_type {model_type!r}",
                hint=f"nearest known: {', '.join(near)}; or another transformers version may have it",
            )
        special = self._mapping("SPECIAL_MODEL_TYPE_TO_MODULE_NAME")
        module = special.get(model_type, model_type).replace("-", "_")
        name = causal_lm[model_type]
        for package in (f"models.{module}", f"models.deprecated.{module}"):
            folder = self.folder.joinpath(*package.split("."))
            for path in sorted(folder.glob("modeling_*.py")):
                if _defines(path, name):
                    return ModelingFile(path, f"transformers.{package}", name)
        # Some types use the class of another type: code_llama uses Llama's.
        paths = [path for path in sorted(self.folder.glob("models/*/modeling_*.py")) if _defines(path, name)]
        if len(paths) != 1:
            raise UnsupportedError(f"found no class {name} (model_type {model_type}) in transformers {self.version}")
        return ModelingFile(paths[0], f"transformers.models.{paths[0].parent.name}", name)

    def _mapping(self, name: str) -> dict[str, str]:
        """Read a mapping of the auto classes from its source text; the file that contains it differs by version."""
        files = ("auto_mappings.py", "configuration_auto.py", "modeling_auto.py")
        text = "\n".join(self._text("models", "auto", file) for file in files)
        blocks = re.findall(rf"^{name}\b[^\n]*\(\n.*?^\)", text, re.MULTILINE | re.DOTALL)
        return dict(re.findall(r'"([^"]+)"\s*[,:]\s*\(?"([^"]+)"', "".join(blocks)))

    def _text(self, *parts: str | Path) -> str:
        path = self.folder.joinpath(*parts)
        return path.read_text("utf-8") if path.exists() else ""


def _defines(path: Path, name: str) -> bool:
    return re.search(rf"^class {name}\b".encode(), path.read_bytes(), re.MULTILINE) is not None


def installed_transformers() -> Installed:
    """Find the package that `import transformers` would load; MissingCapabilityError if it is missing or too old."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.origin:
        raise MissingCapabilityError("transformers is not installed", hint=f"pip install 'transformers>={OLDEST}'")
    version = importlib.metadata.version("transformers")
    if _numbers(version) < _numbers(OLDEST):
        raise MissingCapabilityError(
            f"transformers {version} is installed, expected {OLDEST} or newer",
            hint=f"pip install 'transformers>={OLDEST}'",
        )
    return Installed(Path(spec.origin).parent, version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))
