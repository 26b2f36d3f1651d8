"""The inspector: a web page that shows the traits of an answer token by token, for any Traitwatch server.

The packages, each of which imports only the packages before it:

- `api` talks to one server: its models and traits, its metrics, and messages about its problems.
- `scored` holds scored texts while they grow: requests, streams, transcripts, tables, and the lines that a view draws.
- `export` writes the files that a visitor saves.
- `tabs` has one class for each tab of the page, with a method for each event.

`app.py` builds the page from the tabs and serves it; `command.py` is `traitwatch ui`. `page_head.py`, `static_files.py`
and `theme.py` give the page its head, its files and its look. `assets/` holds the scripts that draw in the browser.

Begin with `tabs/chat.py`, then follow one answer through `scored/generation.py` and `scored/journal.py` to
`assets/view.js`.
"""
