"""The settings of one pane: server, model, system prompt, earlier turns, and sampling."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from traitwatch_dashboards.inspector.api.client import Served, Server
from traitwatch_dashboards.inspector.scored.generation import GenerationRequest
from traitwatch_dashboards.inspector.scored.transcript import Message, Transcript, parse_examples


@dataclass(frozen=True)
class PaneSettings:
    """The settings of one pane.

    Attributes:
        server: address of the server.
        model: model or adapter; empty for the server's first model.
        system: the system prompt; empty for none.
        examples: earlier turns, in the format of `transcript.parse_examples`.
        temperature: temperature of the sampling.
        top_p: top p of the sampling.
        max_tokens: longest answer, tokens.
        title: title of the pane.
    """

    server: str
    model: str
    system: str
    examples: str
    temperature: float
    top_p: float
    max_tokens: int
    title: str

    def transcript(self) -> Transcript:
        """Return a conversation that begins with the system prompt and the examples."""
        before = [Message("system", self.system.strip())] if self.system.strip() else []
        return Transcript(self.title.strip(), [*before, *parse_examples(self.examples)])

    def request(self, server: Server, served: Served, transcript: Transcript) -> GenerationRequest:
        """Return the request to continue a conversation, whichever model answered before."""
        return GenerationRequest(
            server, served.model(self.model), transcript.sent(), self.temperature, self.top_p, self.max_tokens
        )


class SettingsForm:
    """The components of one pane's settings.

    Attributes:
        inputs: the components whose values `read` takes, in order.
        server: the choice of a server; visible only where there are several servers.
        model: the choice of a model.
    """

    def __init__(self, servers: Sequence[str], *, name: str = ""):
        """Build the components where a layout is open.

        Args:
            servers: the addresses to choose from.
            name: title of the pane, such as A; empty where the view has one pane.
        """
        several = len(servers) > 1
        title = gr.Textbox(name, label="Name of the pane", visible=bool(name))
        self.server = gr.Dropdown(list(servers), value=servers[0], label="Server", visible=several)
        self.model = gr.Dropdown([], label="Model or adapter", allow_custom_value=True)
        system = gr.Textbox(label="System prompt", lines=2, max_lines=6, placeholder="None")
        examples = gr.Textbox(
            label="Earlier turns",
            lines=3,
            max_lines=8,
            placeholder="User: a question\nAssistant: an answer that you make up",
        )
        with gr.Row():
            temperature = gr.Slider(0, 2, value=0.7, step=0.05, label="Temperature", min_width=140)
            top_p = gr.Slider(0.05, 1, value=0.9, step=0.05, label="Top p", min_width=140)
            max_tokens = gr.Slider(10, 4000, value=300, step=10, label="Max tokens", min_width=140)
        self.inputs: list[Any] = [
            self.server,
            self.model,
            system,
            examples,
            temperature,
            top_p,
            max_tokens,
            title,
        ]

    @staticmethod
    def read(values: Sequence[Any]) -> PaneSettings:
        """Return the settings of the values of `inputs`."""
        server, model, system, examples, temperature, top_p, max_tokens, title = values
        return PaneSettings(
            server=str(server),
            model=str(model or ""),
            system=str(system or ""),
            examples=str(examples or ""),
            temperature=float(temperature),
            top_p=float(top_p),
            max_tokens=int(max_tokens),
            title=str(title or ""),
        )

    @staticmethod
    def filled(settings: PaneSettings, served: Served) -> list[Any]:
        """Return the updates of `inputs` for settings; `served` has the models of their server."""
        return [
            settings.server,
            model_choices(served, settings.model),
            settings.system,
            settings.examples,
            settings.temperature,
            settings.top_p,
            settings.max_tokens,
            settings.title,
        ]


def model_choices(served: Served, chosen: str | None = None) -> Mapping[str, Any]:
    """Return the update of a choice of models: the models of a server, and the chosen one where the server has it."""
    value = chosen if chosen in served.models else next(iter(served.models), None)
    update: Mapping[str, Any] = gr.update(choices=list(served.models), value=value)
    return update
