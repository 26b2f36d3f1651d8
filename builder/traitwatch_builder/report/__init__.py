"""Shows what is known of vectors: the page of one vector, the comparison of several, and tables for the terminal.

Begin with `page`, which writes the page of a vector, `<trait>.html`.

- `data`: reads the files beside a vector into one object. No model is loaded.
- `view`: turns the data into the sections of the page; `samples` colours the answers token by token, `plots` draws
  inline SVG, `text` formats numbers and characters.
- `report.html.j2`, `page.css.j2`: the templates of the page and of its styles.
- `compare`: cosines between vectors, as a table, a heat map or a page (`compare.html.j2`).
- `summary`: the tables that commands print at their end.
"""
