import json

import pytest

from fa3cli.errors import UnsupportedError
from fa3cli.patching.config_json import Config
from fa3cli.patching.installed import Installed
from fa3cli.patching.preconditions import check_config


def check(version: str = "4.43.1", **fields) -> tuple[str, ...]:
    return check_config(Config(None, json.dumps(fields), fields), Installed(None, version))


def test_a_config_written_by_another_version_is_warned_of() -> None:
    assert check(transformers_version="4.43.1") == check() == ()
    assert "transformers 4.40.0" in check(transformers_version="4.40.0")[0]


def test_llama31_needs_its_own_version() -> None:
    assert check(rope_scaling={"rope_type": "llama3", "factor": 8.0}) == ()
    with pytest.raises(UnsupportedError, match="4.43.0"):
        check("4.42.4", rope_scaling={"rope_type": "llama3", "factor": 8.0})
