"""The look of the page: system fonts (none is fetched), calm greys, and one accent colour."""

import gradio as gr

_SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]


def theme() -> gr.themes.Base:
    """Return the theme for light and dark mode."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        secondary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=_SANS,
        font_mono=_MONO,
    ).set(
        body_background_fill="#f7f7f5",
        body_background_fill_dark="#121518",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1a1e23",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#1a1e23",
        background_fill_secondary="#f0f1f3",
        background_fill_secondary_dark="#242a31",
        border_color_primary="#dcdfe4",
        border_color_primary_dark="#343b44",
        body_text_color="#1b1f24",
        body_text_color_dark="#e7eaee",
        body_text_color_subdued="#59626d",
        body_text_color_subdued_dark="#a5aeb9",
        block_label_text_color="#59626d",
        block_label_text_color_dark="#a5aeb9",
        block_info_text_color="#59626d",
        block_info_text_color_dark="#a5aeb9",
        block_title_text_color="#3a424c",
        block_title_text_color_dark="#c6cdd6",
        input_background_fill="#ffffff",
        input_background_fill_dark="#15191d",
        input_border_width="1px",
        input_border_color="#c9ced5",
        input_border_color_dark="#47505a",
        input_placeholder_color="#69727d",
        input_placeholder_color_dark="#8b95a1",
        button_primary_background_fill="#0b62a8",
        button_primary_background_fill_hover="#094f88",
        button_primary_background_fill_dark="#1768ab",
        button_primary_background_fill_hover_dark="#2078c0",
        button_primary_text_color="#ffffff",
        button_cancel_background_fill="#a32235",
        button_cancel_background_fill_hover="#8a1c2d",
        button_cancel_background_fill_dark="#a32235",
        button_cancel_background_fill_hover_dark="#bb2b40",
        button_cancel_text_color="#ffffff",
        button_cancel_text_color_dark="#ffffff",
        color_accent="#0b62a8",
    )
