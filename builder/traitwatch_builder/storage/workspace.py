"""The files of a build: OUT/<model's name>/, with the folder `.traitwatch/` for files that only the builder reads.

<trait>_pos.csv, _neg.csv, _eval_pos.csv, _eval_neg.csv    answers with their scores
neutral.csv                                                answers to neutral prompts, shared by the traits
<trait>_{response_avg,prompt_avg,prompt_last}_diff.pt      the vectors
<trait>.json, <trait>.html                                 the card and the report
.traitwatch/<trait>-{answers,scores}.jsonl                 the worklogs: each generated answer, each score
.traitwatch/<trait>-{evidence.npz,report.json,manifest.json}
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, TypeAdapter, ValidationError
from rich.console import Console

from traitwatch.files import read_bytes, sweep, write_atomically
from traitwatch.vectors import PROMPT_AVG, PROMPT_LAST, RESPONSE_AVG, check_trait_name
from traitwatch_builder.definitions.definition import definition_files
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.storage.answers import TEXT_COLUMNS
from traitwatch_builder.storage.worklog import file_fingerprint, fingerprint

# The neutral answers' file is named `neutral`; the other names are columns of the answers files.
_RESERVED = ("neutral", *TEXT_COLUMNS, "coherence")


def card_model_name(model: Path | str) -> str:
    """Return the name of a model for the cards: the name of the model's directory, or its hub name."""
    return Path(model).resolve().name if Path(model).is_dir() else str(model)


def model_directory(out: Path, model: Path | str) -> Path:
    """Return the directory of a model's artifacts below `out`. The last part of the model's name names the directory.

    Raises:
        PipelineError: the model itself is in this directory.
    """
    directory = out / card_model_name(model).rpartition("/")[2]
    if Path(model).is_dir() and directory.resolve() == Path(model).resolve():
        raise PipelineError(f"--out {out} would put the vectors into the model's own directory; choose another.")
    return directory


class Workspace:
    """The files of one trait.

    Attributes:
        directory: the directory of the artifacts.
        trait: the trait's name.
    """

    def __init__(self, directory: Path, trait: str):
        """Name the files; `prepare` makes the directories.

        Args:
            directory: the directory of the artifacts.
            trait: the trait's name.

        Raises:
            ArtifactError: `trait` is not a trait name.
            PipelineError: `trait` is the name of another file or column of a build.
        """
        self.directory = directory
        self.trait = check_trait_name(trait)
        if trait in _RESERVED:
            raise PipelineError(f"a trait cannot be called {trait!r}: a file or a column of a build has this name.")
        self._own = directory / ".traitwatch"

    def answers(self, name: str) -> Path:
        """Return the answers file `name`: `pos`, `neg`, `eval_pos`, `eval_neg`."""
        return self.directory / f"{self.trait}_{name}.csv"

    def vector(self, kind: str) -> Path:
        """Return the `.pt` file of a kind of vector, for example `traitwatch.vectors.RESPONSE_AVG`."""
        return self.directory / f"{self.trait}_{kind}.pt"

    @property
    def card(self) -> Path:
        """The file of the card."""
        return self.directory / f"{self.trait}.json"

    @property
    def neutral(self) -> Path:
        """The file of the answers to neutral prompts."""
        return self.directory / "neutral.csv"

    @property
    def evidence(self) -> Path:
        """The file of extraction's results about the vector, for verification."""
        return self._own / f"{self.trait}-evidence.npz"

    @property
    def report_evidence(self) -> Path:
        """The file of verification's and calibration's results, for the report."""
        return self._own / f"{self.trait}-report.json"

    def log(self, name: str) -> Path:
        """Return the worklog `name` of this trait."""
        return self._own / f"{self.trait}-{name}.jsonl"

    @property
    def neutral_log(self) -> Path:
        """The worklog of the neutral answers, shared by the traits."""
        return self._own / "neutral-answers.jsonl"

    @property
    def manifest(self) -> "Manifest":
        """The record of finished steps."""
        return Manifest(self._own / f"{self.trait}-manifest.json", self.directory)

    def prepare(self) -> None:
        """Make the directories; raise `PipelineError` if the system refuses to write them."""
        try:
            self._own.mkdir(parents=True, exist_ok=True)
            (self._own / ".gitignore").write_text("*\n")
        except OSError as error:
            raise PipelineError(
                f"{self.directory} cannot be written: {error.strerror}; choose another --out or --vectors."
            ) from error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lock this trait for one process; raise `PipelineError` if another process has the lock."""
        self.prepare()
        try:
            with FileLock(self._own / f"{self.trait}.lock", timeout=0):
                for path in self._written_alone():
                    sweep(path)
                yield
        except Timeout:
            raise PipelineError(
                f"{self.trait} is being worked on by another process already; wait for it, or stop it."
            ) from None

    @contextmanager
    def neutral_alone(self, console: Console) -> Iterator[None]:
        """Lock the neutral answers for one process. Wait while a build of another trait answers the neutral prompts."""
        lock = FileLock(self._own / "neutral.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            console.print("Waiting for another build in this directory to answer the neutral prompts.")
            lock.acquire()
        try:
            sweep(self.neutral)
            yield
        finally:
            lock.release()

    def _written_alone(self) -> list[Path]:
        """Return the files that only the process with this trait's lock writes. The process writes each file whole."""
        answers = [self.answers(name) for name in ("pos", "neg", "eval_pos", "eval_neg")]
        vectors = [self.vector(kind) for kind in (RESPONSE_AVG, PROMPT_AVG, PROMPT_LAST)]
        report = self.directory / f"{self.trait}.html"
        return [*answers, *vectors, self.card, report, self.evidence, self.report_evidence, self.manifest.path]


class _Record(BaseModel):
    """A finished step."""

    inputs: str
    outputs: dict[str, str]


_RECORDS = TypeAdapter(dict[str, _Record])


class Manifest:
    """The record of finished steps: for each step a hash of its inputs, and the hashes of its output files."""

    def __init__(self, path: Path, root: Path):
        """Name the file; the file need not exist.

        Args:
            path: the manifest's file.
            root: the directory that contains the output files of all steps.
        """
        self.path = path
        self._root = root

    def done(self, step: str, inputs: object) -> bool:
        """Return whether a step was finished with these inputs (JSON data) and its output files are unchanged.

        A damaged manifest records nothing: its steps are done again.
        """
        record = self._read().get(step)
        if record is None or record.inputs != fingerprint(inputs):
            return False
        paths = {self._root / name: digest for name, digest in record.outputs.items()}
        return all(path.is_file() and file_fingerprint(path) == digest for path, digest in paths.items())

    def record(self, step: str, inputs: object, outputs: Sequence[Path]) -> None:
        """Record that a step is finished, with its inputs and its output files (below the manifest's root)."""
        digests = {path.relative_to(self._root).as_posix(): file_fingerprint(path) for path in outputs}
        steps = {**self._read(), step: _Record(inputs=fingerprint(inputs), outputs=digests)}
        write_atomically(self.path, _RECORDS.dump_json(steps, indent=1) + b"\n")

    def _read(self) -> dict[str, _Record]:
        """Return the finished steps; none where the file is damaged, so that all steps are done again."""
        if not self.path.is_file():
            return {}
        try:
            return _RECORDS.validate_json(read_bytes(self.path))
        except ValidationError:
            return {}


def find_definition(trait: str, directories: Sequence[Path]) -> tuple[Path, Path] | None:
    """Return the extraction and the evaluation file of a trait, from the first directory that has both; or None."""
    places = (definition_files(directory, trait) for directory in directories)
    return next((files for files in places if all(file.is_file() for file in files)), None)


def known_definitions(directories: Sequence[Path]) -> list[str]:
    """Return the names of the traits that the directories define."""
    return sorted(
        {file.stem for directory in directories for file in definition_files(directory, "any")[0].parent.glob("*.json")}
    )
