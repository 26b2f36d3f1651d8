"""Makes tables in Markdown, and fills the regions of pages."""

import re
from collections.abc import Iterable, Mapping, Sequence

_REGION = re.compile(r"(<!-- begin (\S+)[^>]*-->\n).*?(<!-- end \2 -->)", re.DOTALL)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    lines = [[cell.replace("|", r"\|") for cell in line] for line in (header, ["---"] * len(header), *rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def fill(page: str, regions: Mapping[str, str]) -> str:
    """Return a page with its regions filled.

    Args:
        page: Markdown with the marks of regions.
        regions: the text of each region, by name.

    Raises:
        ValueError: the page has other regions than `regions`.
    """
    names = [match[2] for match in _REGION.finditer(page)]
    if sorted(names) != sorted(regions):
        raise ValueError(f"the page has the regions {sorted(names)}, not {sorted(regions)}")
    return _REGION.sub(lambda match: f"{match[1]}\n{regions[match[2]].strip()}\n\n{match[3]}", page)
