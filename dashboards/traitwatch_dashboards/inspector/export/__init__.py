"""The files that a visitor saves from a view.

- `export` writes JSON and CSV, and wraps each file for the browser.
- `shared_page` writes the HTML page to share from `shared.html`; the page loads nothing and runs no script.
"""
