"""The data that launcher and plugin exchange through vLLM's parsed arguments."""

from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path

from traitwatch_server.process import ProcessReference
from traitwatch_server.settings import Settings

_ATTRIBUTE = "traitwatch_launch"


@dataclass
class Launch:
    """One run of a server. An API process that is not the launcher itself has a copy.

    Attributes:
        settings: our options.
        sockets: a directory that only this user may enter. The launcher removes it when the server has ended.
        launcher: the process of the launcher.
        engine_died: the plugin sets this when the engine has ended by itself.
    """

    settings: Settings
    sockets: Path
    launcher: ProcessReference = field(default_factory=ProcessReference.of_this)
    engine_died: bool = False

    def leave_in(self, args: Namespace) -> None:
        """Put this run into the arguments, for the plugin."""
        setattr(args, _ATTRIBUTE, self)


def launch_of(args: Namespace) -> Launch:
    """Return the run that the launcher has put into the arguments."""
    launch: Launch = getattr(args, _ATTRIBUTE)
    return launch
