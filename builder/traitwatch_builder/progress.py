"""What long steps show: warnings, and progress bars with finished items of all, per cent, rate, time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


def warn(console: Console, warning: str | None) -> None:
    """Print a warning; nothing for None. Square brackets in the warning are text, no markup."""
    if warning:
        console.print(f"[yellow]Warning:[/] {escape(warning)}")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "", style="progress.data.speed")


def progress(console: Console) -> Progress:
    """Return a progress display on `console`; use it as a context manager."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=console,
    )


@contextmanager
def bar(console: Console, description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show one bar during a `with` block, which gets the function that advances the bar by a number of items."""
    with progress(console) as display:
        task = display.add_task(description, total=total)
        yield lambda count: display.advance(task, count)
