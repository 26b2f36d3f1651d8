"""Makes the tables of docs/reference from the code: `python -m scripts.reference` writes them into the pages.

A page is prose with regions between `<!-- begin NAME ... -->` and `<!-- end NAME -->`. The text of a region comes from
the code. The pages are committed, so that a reader finds them in the repository. A test compares each page with the
code.

`pages` says which table stands in which page: begin there. `cli`, `api`, `metrics` and `artifacts` make the tables.
`fields` makes tables from JSON schemas. `markdown` fills the regions.
"""
