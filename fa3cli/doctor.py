"""Diagnoses this machine: packages, devices, and which commands work. Prints nothing and needs no network."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from types import ModuleType

from fa3cli.patching.origins.installed import OLDEST

__all__ = ["Command", "Device", "Diagnosis", "Package", "diagnose"]

# The oldest supported versions; the same as in pyproject.toml.
_MINIMUM = {
    "torch": "2.1",
    "transformers": OLDEST,
    "safetensors": "0.4.3",
    "accelerate": "0.30",
    "greenlet": "3.0",
    "jinja2": "3.0",
    "libcst": "1.5",
    "msgspec": "0.18",
    "numpy": "1.24",
    "packaging": "22",
    "psutil": "5.9",
    "rich": "13",
    "typer": "0.12",
}
_UNTESTED_FROM = {"transformers": "6"}
# Builds a model: verify compares an export with the model that transformers builds.
_MODEL = ("torch", "transformers", "safetensors", "accelerate", "greenlet", "msgspec", "numpy", "packaging", "psutil")
_NEEDS = {
    "fa3 patch": ("transformers", "libcst", "msgspec"),
    "fa3 quantize": (*_MODEL, "libcst"),
    "fa3 calibrate": (*_MODEL, "libcst"),
    "fa3 export": (*_MODEL, "libcst"),
    "fa3 verify": _MODEL,
    "fa3 report": ("torch", "safetensors", "jinja2", "numpy"),
}
_ON_DEVICES = ("fa3 quantize", "fa3 calibrate")
# CPU features that change the last bits of results (docs/numerics.md), and the speed.
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "asimd", "sve", "bf16")
_CANN_HOMES = ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH")
_CANN_DEFAULT = "/usr/local/Ascend/ascend-toolkit/latest"
_CANN_VERSION_FILES = ("version.cfg", "*/ascend_toolkit_install.info", "compiler/version.info")


@dataclass(frozen=True)
class Package:
    """A required package: its version, and a problem or a remark if there is one."""

    name: str
    required: str
    version: str | None
    problem: str | None
    remark: str | None


@dataclass(frozen=True)
class Device:
    """A kind of device that quantize can run on; `problem` says why there is no such device."""

    kind: str
    names: tuple[str, ...]
    problem: str | None


@dataclass(frozen=True)
class Command:
    """Whether a command works on this machine, and the reason."""

    name: str
    works: bool
    reason: str


@dataclass(frozen=True)
class Diagnosis:
    """The whole diagnosis; memory and disk are in bytes. `ok` is True if quantize can run on some device."""

    ok: bool
    python: str
    system: str
    cpus: int
    cpu_flags: tuple[str, ...]
    memory_free: int | None
    disk_free: int
    folder: str
    cann: str | None
    packages: tuple[Package, ...]
    devices: tuple[Device, ...]
    commands: tuple[Command, ...]


def diagnose() -> Diagnosis:
    """Diagnose this machine; imports torch and, if installed, torch_npu, and reports their import errors."""
    torch, torch_problem = _import("torch")
    packages = tuple(_package(name, torch_problem if name == "torch" else None) for name in _MINIMUM)
    devices = _devices(torch) if torch else ()
    commands = tuple(_command(name, needs, packages, devices) for name, needs in _NEEDS.items())
    return Diagnosis(
        ok=next(command.works for command in commands if command.name == "fa3 quantize"),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpus=os.cpu_count() or 1,
        cpu_flags=_cpu_flags(),
        memory_free=_memory_free(),
        disk_free=shutil.disk_usage(Path.cwd()).free,
        folder=str(Path.cwd()),
        cann=_cann(),
        packages=packages,
        devices=devices,
        commands=commands,
    )


def _package(name: str, problem: str | None) -> Package:
    required = f">={_MINIMUM[name]}"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Package(name, required, None, "is not installed", None)
    if problem is None and _release(version) < _release(_MINIMUM[name]):
        problem = f"is too old, needs {required}"
    newest = _UNTESTED_FROM.get(name)
    remark = f"untested from {newest} on" if newest and _release(version) >= _release(newest) else None
    return Package(name, required, version, problem, remark)


def _command(name: str, needs: tuple[str, ...], packages: tuple[Package, ...], devices: tuple[Device, ...]) -> Command:
    problems = [
        f"{package.name} {package.problem}" for package in packages if package.name in needs and package.problem
    ]
    if problems:
        return Command(name, False, "; ".join(problems))
    if name not in _ON_DEVICES:
        return Command(name, True, "needs no device")
    usable = [f"{device.kind} ({len(device.names)})" for device in devices if device.names]
    return Command(name, True, f"on {', '.join(usable)}")


def _devices(torch: ModuleType) -> tuple[Device, ...]:
    return (Device("cpu", (platform.processor() or platform.machine(),), None), _cuda(torch), _npu(torch))


def _cuda(torch: ModuleType) -> Device:
    if torch.version.cuda is None:
        return Device("cuda", (), "this torch is built without CUDA")
    names = tuple(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
    return Device("cuda", names, None if names else "torch sees no CUDA device")


def _npu(torch: ModuleType) -> Device:
    if util.find_spec("torch_npu") is None:
        return Device("npu", (), "torch_npu is not installed")
    _, problem = _import("torch_npu")
    if problem:
        return Device("npu", (), f"torch_npu {problem}")
    names = tuple(torch.npu.get_device_name(number) for number in range(torch.npu.device_count()))
    return Device("npu", names, None if names else "torch_npu sees no device; do npu-smi and the CANN set_env.sh work?")


def _import(name: str) -> tuple[ModuleType | None, str | None]:
    if util.find_spec(name) is None:
        return None, "is not installed"
    try:
        return importlib.import_module(name), None
    except Exception as error:  # noqa: BLE001 - an unsuitable driver can raise any error here
        return None, f"cannot be imported: {_error_text(error)}"


def _error_text(error: BaseException) -> str:
    """Return an error and its cause as text: torch's error hides why a device's package fails."""
    cause = f" ({_error_text(error.__cause__)})" if error.__cause__ else ""
    return f"{type(error).__name__}: {error}{cause}"


def _cann() -> str | None:
    """Return the version and the folder of CANN; the version comes from CANN's own files."""
    named = [os.environ[name] for name in _CANN_HOMES if os.environ.get(name)]
    try:
        home = next((Path(path) for path in [*named, _CANN_DEFAULT] if Path(path).is_dir()), None)
        return f"{_cann_version(home) or 'unknown version'} in {home}" if home else None
    except OSError as error:
        return f"cannot be read: {error}"


def _cann_version(home: Path) -> str | None:
    for file in (file for pattern in _CANN_VERSION_FILES for file in sorted(home.glob(pattern))):
        if found := re.search(r"(?im)version\s*=\s*\[?([\w.]+)", file.read_text(errors="replace")):
            return found[1]
    return None


def _cpu_flags() -> tuple[str, ...]:
    found = re.search(r"(?m)^(?:flags|Features)\s*:\s*(.*)$", _proc("cpuinfo"))
    return tuple(flag for flag in _CPU_FLAGS if found and flag in found[1].split())


def _memory_free() -> int | None:
    found = re.search(r"(?m)^MemAvailable:\s*(\d+) kB", _proc("meminfo"))
    return int(found[1]) * 1024 if found else None


def _proc(name: str) -> str:
    path = Path("/proc") / name
    return path.read_text() if path.is_file() else ""


def _release(version: str) -> tuple[int, ...]:
    """Return a version's release numbers: `2.13.0+cpu` -> (2, 13, 0)."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
