"""Runs commands in a tree of files like a container: chroot, and namespaces for mounts, processes and network.

Every mount belongs to the namespace of the command. The mount ends with the command, however the command ends.
"""

import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

_DEVICES = ("null", "zero", "full", "random", "urandom")


@dataclass(frozen=True)
class Bind:
    """A path of the machine that the command sees at another place.

    Attributes:
        source: the path outside.
        target: the path inside.
        writable: whether it may be written to.
    """

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True)
class Sandbox:
    """The settings with which commands run.

    Attributes:
        root: the tree.
        env: the whole environment.
        directory: the working directory. It is created if it is missing.
        user: `uid:gid`. Users other than root have no capability and cannot gain one.
        binds: the mounts from outside.
        read_only: whether the tree is read-only. Then /tmp is a tmpfs without executable files.
        network: whether commands have the machine's network. Otherwise they have only a loopback device.
    """

    root: Path
    env: Mapping[str, str]
    directory: str = "/"
    user: str = "0:0"
    binds: Sequence[Bind] = field(default_factory=list)
    read_only: bool = False
    network: bool = True

    def run(self, command: Sequence[str], timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, and return its output."""
        with self._mount_points():
            argv = self._argv(command)
            return subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
            )

    def start(self, command: Sequence[str], output: IO[bytes], stack: ExitStack) -> subprocess.Popen[bytes]:
        """Start a command as process 1 of its namespace. The end of the stack kills the command if it still runs."""
        stack.enter_context(self._mount_points())
        argv = self._argv(command)
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        stack.callback(process.wait)
        # With --kill-child, all processes of the namespace die with this process.
        stack.callback(process.kill)
        return process

    def enter(self, process: subprocess.Popen[bytes], command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command beside a started one, with the same files, processes, network and user."""
        inside = f"chroot {shlex.quote(str(self.root))} {shlex.join(self._privileges_and_command(command))}"
        argv = ["nsenter", "--target", str(first_process(process)), "--mount", "--net", "--pid", "sh", "-c", inside]
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)

    def _argv(self, command: Sequence[str]) -> list[str]:
        namespaces = ["--mount", "--pid", *([] if self.network else ["--net"])]
        script = "\n".join([*self._mounts(), f"exec chroot {shlex.quote(str(self.root))} " + '"$@"'])
        return [
            *("unshare", *namespaces, "--fork", "--kill-child=SIGKILL", "sh", "-euc", script, "sandbox"),
            *self._privileges_and_command(command),
        ]

    def _privileges_and_command(self, command: Sequence[str]) -> list[str]:
        variables = [f"{name}={value}" for name, value in self.env.items()]
        environment = ["env", "-i", "-C", self.directory, *variables, *command]
        if self.user == "0:0":
            return environment
        uid, gid = self.user.split(":")
        # The kernel forgets the request of --kill-child when a process changes its user. --pdeathsig repeats it.
        identity = ["setpriv", "--pdeathsig=KILL", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        return [*identity, "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", *environment]

    def _mounts(self) -> list[str]:
        """Return the commands that mount everything. They run in the new namespace."""
        root = shlex.quote(str(self.root))
        lines = [f"mount --bind {root} {root}", f"mount -t proc proc {root}/proc"]
        lines += [f"mount -t sysfs -o ro,nosuid,nodev,noexec sysfs {root}/sys"]
        lines += [f"mount -t tmpfs -o nosuid,mode=755 dev {root}/dev"]
        for device in _DEVICES:
            lines += [f"touch {root}/dev/{device}", f"mount --bind /dev/{device} {root}/dev/{device}"]
        lines += [f"mkdir {root}/dev/shm", f"mount -t tmpfs -o nosuid,nodev,size=1g,mode=1777 shm {root}/dev/shm"]
        lines += [f"mkdir {root}/dev/pts", f"mount -t devpts -o newinstance,ptmxmode=0666 devpts {root}/dev/pts"]
        lines += [f"ln -s pts/ptmx {root}/dev/ptmx", f"ln -s /proc/self/fd {root}/dev/fd"]
        for bind in self.binds:
            target = f"{root}{shlex.quote(bind.target)}"
            lines.append(f"mount --bind {shlex.quote(str(bind.source))} {target}")
            if not bind.writable:
                lines.append(f"mount -o remount,bind,ro {target}")
        if self.read_only:
            # The options of `docker run --tmpfs /tmp`.
            lines += [f"mount -t tmpfs -o noexec,nosuid,nodev,mode=1777 tmp {root}/tmp"]
            lines += [f"mount -o remount,bind,ro {root}"]
        if not self.network:
            lines += ["ip link set lo up"]
        return lines

    def _mount_points(self) -> ExitStack:
        """Make the mount points. The end of the stack removes the mount points that were made here."""
        stack = ExitStack()
        for bind in self.binds:
            target = self.root / bind.target.lstrip("/")
            for parent in reversed(target.parents):
                if not parent.exists():
                    parent.mkdir()
                    stack.callback(_remove_empty, parent)
            if target.exists():
                continue
            if bind.source.is_dir():
                target.mkdir()
                stack.callback(_remove_empty, target)
            else:
                target.touch()
                stack.callback(target.unlink)
        (self.root / self.directory.lstrip("/")).mkdir(parents=True, exist_ok=True)
        return stack


def first_process(process: subprocess.Popen[bytes]) -> int:
    """Return the pid that process 1 of a started command's namespace has on the machine.

    Raises:
        AssertionError: the command ended, or did not begin in time.
    """
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if found := children.read_text().split():
            return int(found[0])
        time.sleep(0.01)
    raise AssertionError(f"no process 1; exit status {process.poll()}")


def _remove_empty(directory: Path) -> None:
    if not any(directory.iterdir()):
        directory.rmdir()
