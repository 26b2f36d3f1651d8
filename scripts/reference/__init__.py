"""The tables of docs/reference, made from the code: `python -m scripts.reference` writes them into the pages.

A page is prose with regions between `<!-- begin NAME ... -->` and `<!-- end NAME -->`; what lies between is replaced.
The pages are committed, so that they can be read where the repository is, and a test holds them to what is made here.
"""
