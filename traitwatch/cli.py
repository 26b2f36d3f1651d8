"""The `traitwatch` command: one subcommand a job, each imported only when it runs.

torch and vLLM take seconds to import, and `--help` must not wait for them. So the group knows only three things of each
subcommand: its name, the place of its code, and one line of help. It imports a module when the command is called.

`LazyGroup.invoke` shows errors that we raise on purpose without a traceback, and the system's errors about a file too.
"""

import errno
import importlib
from importlib.metadata import version

import click

from traitwatch.errors import TraitwatchError

# What the system says of a disk, without the name of a file.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}

# name -> (module:attribute, its line in `traitwatch --help`)
COMMANDS = {
    "build": (
        "traitwatch_builder.commands.build:build_command",
        "Build the persona vector of a trait for a model, in one go.",
    ),
    "calibrate": (
        "traitwatch_builder.commands.calibrate:calibrate_command",
        "Measure a vector's baseline on neutral answers.",
    ),
    "compare": ("traitwatch_builder.commands.compare:compare_command", "Show the cosines between vectors."),
    "define": ("traitwatch_builder.commands.define:define_command", "Write the definition of a trait."),
    "demo": ("traitwatch_dashboards.demo.demo:demo", "Serve the embedded model and show two chats with their scores."),
    "demo-alerts": (
        "traitwatch_dashboards.demo.alerts:demo_alerts",
        "Show an alert arriving at a webhook, and its end.",
    ),
    "doctor": (
        "traitwatch_server.doctor.command:doctor",
        "Check on this machine that a model's scores are right, and what they cost.",
    ),
    "extract": ("traitwatch_builder.commands.extract:extract_command", "Make vectors out of judged answers."),
    "import": (
        "traitwatch_builder.commands.import_vector:import_command",
        "Make a vector of a published file: .pt, .safetensors, .gguf, .npy.",
    ),
    "judge": ("traitwatch_builder.commands.judge:judge_command", "Score answers for a trait and for coherence."),
    "layers": ("traitwatch_builder.commands.layers:layers_command", "Rank layers by held-out AUC and by steering."),
    "model": (
        "traitwatch_builder.commands.model:model_command",
        "Print the path of the embedded model, preparing it on first use.",
    ),
    "report": ("traitwatch_builder.commands.report:report_command", "Write a vector's report, one HTML page."),
    "respond": (
        "traitwatch_builder.commands.respond:respond_command",
        "Answer a definition's questions under a condition.",
    ),
    "rules": (
        "traitwatch_dashboards.prometheus.rules:rules",
        "Write the Prometheus and Alertmanager files, ready to be loaded.",
    ),
    "serve": ("traitwatch_server.launch.command:serve", "Serve a model with vLLM, and score every generated token."),
    "ui": ("traitwatch_dashboards.inspector.command:ui", "Show a server's traits in a browser."),
    "verify": (
        "traitwatch_builder.commands.verify:verify_command",
        "Test a vector on held-out answers and against chance.",
    ),
}


class LazyGroup(click.Group):
    """A click group that imports a subcommand's module when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all subcommands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one subcommand; None where there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}:{attribute} is not a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> object:
        """Run a subcommand. An error that we raise on purpose, or of a file, is shown without a traceback."""
        try:
            return super().invoke(ctx)
        except TraitwatchError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if not isinstance(error.filename, str) and error.errno not in _DISK:
                raise
            from traitwatch.files import trouble

            raise click.ClickException(trouble(error.filename or "a file", error, "used")) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("traitwatch"), prog_name="traitwatch")
def main() -> None:
    """Build, serve and watch the traits of a language model while it speaks."""


if __name__ == "__main__":
    main()
