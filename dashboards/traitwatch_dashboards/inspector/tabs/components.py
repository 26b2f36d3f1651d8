"""Our own components: a view of coloured tokens with its plot, a figure, and a fragment of HTML."""

import gradio as gr


def token_view(value: str, name: str) -> gr.HTML:
    """Return a view of coloured tokens. Its value is the lines of a `Journal`; `assets/view.js` draws them.

    The plot of the view appears where `plot_of(name)` stands.
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
    """Return the place for the plot of a view."""
    return gr.HTML(
        html_template=f'<div class="tw-place" data-view="{name}"></div>',
        js_on_load="window.Traitwatch.place();",
        apply_default_css=False,
        padding=False,
    )


def figure(value: str, elem_id: str) -> gr.HTML:
    """Return a figure in the theme of the page. Its value is JSON with the `data` and `layout` of Plotly."""
    return gr.HTML(
        value,
        html_template='<div class="tw-figure" role="img" aria-label="Lines over time"></div>',
        js_on_load="window.Traitwatch.figure(element, props, watch);",
        apply_default_css=False,
        padding=False,
        elem_id=elem_id,
    )


def fragment(value: str = "", elem_id: str | None = None) -> gr.HTML:
    """Return a fragment of HTML. The caller has escaped every text of a user, a model or a server."""
    return gr.HTML(value, js_on_load=None, apply_default_css=False, padding=False, elem_id=elem_id)
