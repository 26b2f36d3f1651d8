"""`traitwatch model`: the embedded model, which needs no account."""

import logging

import click
from rich.console import Console
from rich.logging import RichHandler


@click.command("model")
def model_command() -> None:
    """Print the path of the embedded model, preparing it on first use.

    The model is SmolLM2-135M-Instruct, out of a PyPI package; no model hub is asked.
    """
    from traitwatch_builder.models.embedded import embedded_model

    handler = RichHandler(console=Console(stderr=True), show_path=False, show_level=False)
    logging.getLogger("traitwatch_builder").addHandler(handler)
    logging.getLogger("traitwatch_builder").setLevel(logging.INFO)
    click.echo(embedded_model())
