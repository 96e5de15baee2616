"""Checks that the tensors are those that fa3 wrote."""

from __future__ import annotations

from collections.abc import Iterator

from fa3cli.exports.checks.registry import ALL, CHECKS, Remark, check, error
from fa3cli.exports.checksums import bytes_of, checksum
from fa3cli.exports.contents import Contents


def _written(contents: Contents) -> list[str]:
    """Return the tensors that fa3 wrote and that are still stored; other checks report missing tensors."""
    return [name for name in contents.checksums if name in contents.tensors]


@check(
    "checksums",
    "a tensor that is not the one that fa3 wrote is damaged, or of another module",
    targets=ALL,
    over=_written,
    needs=("weights",),
    # The last check: another check says more precisely what is wrong with a tensor.
    after=tuple(CHECKS),
)
def checksums(contents: Contents, name: str) -> Iterator[Remark]:
    found = checksum([bytes_of(contents.read(name))])
    if found == contents.checksums[name]:
        return
    if "names" not in contents.cache:
        contents.cache["names"] = {value: other for other, value in contents.checksums.items()}
    other = contents.cache["names"].get(found)
    yield error(name, f"is {f'that of {other}' if other else 'not as fa3 wrote it'}; copy or make the export again")
