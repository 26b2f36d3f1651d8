"""What the launcher and the plugin tell each other through vLLM's parsed arguments."""

import os
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path

from traitwatch_server.settings import Settings

_ATTRIBUTE = "traitwatch_launch"


@dataclass
class Launch:
    """One run of a server. API processes that are not the launcher itself have a copy.

    Attributes:
        settings: the options that are ours.
        sockets: a directory that only this user may enter; the launcher removes it when the server has ended.
        pid: process id of the launcher.
        engine_died: set by the plugin when the engine ended before it was told to.
    """

    settings: Settings
    sockets: Path
    pid: int = field(default_factory=os.getpid)
    engine_died: bool = False

    def leave_in(self, args: Namespace) -> None:
        """Leave it for the plugin."""
        setattr(args, _ATTRIBUTE, self)


def launch_of(args: Namespace) -> Launch:
    """Return what the launcher left."""
    launch: Launch = getattr(args, _ATTRIBUTE)
    return launch
