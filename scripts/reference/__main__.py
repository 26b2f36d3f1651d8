"""Writes the tables into the pages of docs/reference: see `scripts.reference`."""

from traitwatch.files import write_atomically

from .pages import DIRECTORY, PAGES, filled_page

if __name__ == "__main__":
    for name in PAGES:
        write_atomically(DIRECTORY / name, filled_page(name).encode())
