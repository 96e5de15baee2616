from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fa3cli.files.hashing import fingerprint, sha256_of

PARTS = st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.binary())


@given(PARTS, PARTS)
def test_only_the_same_parts_have_the_same_hash(first: list[str | bytes], second: list[str | bytes]) -> None:
    same = [part.encode() if isinstance(part, str) else part for part in first] == [
        part.encode() if isinstance(part, str) else part for part in second
    ]
    assert (sha256_of(*first) == sha256_of(*second)) is same


def test_different_splits_of_the_same_bytes_have_different_hashes() -> None:
    assert len({sha256_of("ab", "c"), sha256_of("a", "bc"), sha256_of("abc"), sha256_of("abc", "")}) == 4


def test_a_fingerprint_depends_on_the_size_and_on_the_start_of_each_tensor(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    data = bytearray(2**21 + 5000)
    file.write_bytes(data)
    before = fingerprint(file, [5000])
    data[5000] = 1
    file.write_bytes(data)
    assert fingerprint(file, [5000]) != before
    file.write_bytes(data + b"\0")
    assert len({before, fingerprint(file, [5000]), fingerprint(file, [])}) == 3
