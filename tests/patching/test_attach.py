import pytest

from fa3cli.errors import UnsupportedError
from fa3cli.patching.sources import patch_source
from tests.patching.samples import INTERFACE, marked


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("self.config = config", "self.width = config.width", "FAQuantizer(config, logger)"),
        ("        self.config = config", "        if config:\n            self.config = config", "(self.config, logger)"),
    ],
)  # fmt: skip
def test_the_quantizer_gets_the_available_config(before: str, after: str, expected: str) -> None:
    assert expected in patch_source(marked(INTERFACE)[0].replace(before, after)).text


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("config, layer_idx", "width, layer_idx", "no config"),
        ("        self.config = config", "        self.config = config\n        if layer_idx:\n            return", "early"),
    ],
)  # fmt: skip
def test_an_init_without_a_place_for_the_quantizer_is_refused(before: str, after: str, reason: str) -> None:
    text = marked(INTERFACE)[0].replace(before, after)
    with pytest.raises(UnsupportedError, match=rf"modeling\.py:\d+: .*{reason}"):
        patch_source(text.replace("self.config = config", "self.w = 1") if reason == "no config" else text)
