from tests.cli.reference import reference
from tests.conftest import ROOT


def test_the_page_of_options_is_up_to_date() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == reference()
