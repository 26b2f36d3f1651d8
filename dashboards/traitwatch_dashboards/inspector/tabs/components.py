"""The page's own components: a view of coloured tokens, a figure, a fragment of HTML; and its scripts and style."""

import gradio as gr


def token_view(value: str, name: str) -> gr.HTML:
    """Return a view: its value is a `Journal`'s lines, and `assets/view.js` draws it.

    Its plot is drawn where `plot_of(name)` stands.
    """
    return gr.HTML(
        value,
        html_template=f'<div class="tw-host" data-view="{name}"></div>',
        js_on_load="window.Traitwatch.view(element, props, watch);",
        apply_default_css=False,
        padding=False,
        elem_id=name,
    )


def plot_of(name: str) -> gr.HTML:
    """Return the place of a view's plot."""
    return gr.HTML(
        html_template=f'<div class="tw-place" data-view="{name}"></div>',
        js_on_load="window.Traitwatch.place();",
        apply_default_css=False,
        padding=False,
    )


def figure(value: str, elem_id: str) -> gr.HTML:
    """Return a figure: its value is JSON with the `data` and `layout` of Plotly, drawn in the page's theme."""
    return gr.HTML(
        value,
        html_template='<div class="tw-figure" role="img" aria-label="Lines over time"></div>',
        js_on_load="window.Traitwatch.figure(element, props, watch);",
        apply_default_css=False,
        padding=False,
        elem_id=elem_id,
    )


def fragment(value: str = "", elem_id: str | None = None) -> gr.HTML:
    """Return a fragment of HTML, in which whoever makes it has escaped what is not its own."""
    return gr.HTML(value, js_on_load=None, apply_default_css=False, padding=False, elem_id=elem_id)
