"""The options that several commands share, each declared once, and the functions that make objects of their values."""

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from traitwatch.headers import fits_header
from traitwatch_builder.definitions.definition import SHIPPED_DEFINITIONS
from traitwatch_builder.judging.judge import OPENAI_MODEL

CONTEXT = {"show_default": True, "help_option_names": ["-h", "--help"]}
Function = TypeVar("Function", bound=Callable[..., Any])
# The characters of a header's name (RFC 9110).
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _combined(*options: Callable[[Any], Any]) -> Callable[[Function], Function]:
    """Make one decorator of several options; `--help` lists them in this order."""

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


class Header(click.ParamType[tuple[str, str]]):
    """A header of HTTP requests, `NAME: VALUE`. An environment variable has one header a line."""

    name = "NAME: VALUE"
    envvar_list_splitter = "\n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return name and value of the header."""
        if isinstance(value, tuple):
            return value
        name, colon, text = value.partition(":")
        if not colon or not _TOKEN.fullmatch(name.strip()) or not fits_header(text.strip()):
            # The value may be a secret.
            self.fail("not a header; give it as 'NAME: VALUE', in ASCII.", param, ctx)
        return name.strip(), text.strip()

    def split_envvar_value(self, rv: str) -> list[str]:
        """Return the headers of an environment variable; empty lines do not count."""
        return [line for line in rv.splitlines() if line.strip()]


EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
DIRECTORY = click.Path(file_okay=False, path_type=Path)

model_option = click.option(
    "--model",
    required=True,
    help="Path or hub name of the model; `traitwatch model` prints the path of the embedded one.",
)
out_option = click.option(
    "--out",
    type=DIRECTORY,
    required=True,
    help="Directory for the files, which go to OUT/<model's name>/; `traitwatch serve --traits` takes that directory.",
)
vectors_option = click.option(
    "--vectors", type=DIRECTORY, required=True, help="Directory of the vector and its card, e.g. OUT/<model's name>."
)


def definition_option(places: str) -> Callable[[Function], Function]:
    """Return the option `--definition`; `places` names the place where the command looks first without the option."""
    return click.option(
        "--definition",
        type=DIRECTORY,
        show_default=f"{places}, then the shipped ones",
        help="Directory with trait_data_extract/<trait>.json and trait_data_eval/<trait>.json.",
    )


elicit_options = _combined(
    click.option(
        "--elicit",
        type=click.Choice(["system", "many-shot"]),
        default="system",
        help="How the trait is elicited: by a system prompt, or by examples for models that do not obey one.",
    ),
    click.option(
        "--assistant-name", show_default="the trait", help="What a positive system prompt calls the assistant."
    ),
)
sampling_options = _combined(
    click.option("--temperature", type=click.FloatRange(0), default=1.0, help="Temperature of sampling."),
    click.option(
        "--top-p",
        type=click.FloatRange(0, 1, min_open=True),
        default=1.0,
        help="Nucleus of sampling; 1 allows all tokens.",
    ),
    click.option(
        "--max-tokens", type=click.IntRange(2), default=200, help="Most tokens of an answer; a longer one is cut off."
    ),
    click.option("--seed", type=int, default=0, help="Seed of the engine that this command starts."),
)
source_options = _combined(
    click.option(
        "--endpoint",
        "endpoints",
        multiple=True,
        metavar="URL",
        help="OpenAI-compatible server that answers instead of an engine of this command, e.g. http://host:8000/v1; "
        "repeat the option to spread the requests over several servers.",
    ),
    click.option(
        "--endpoint-model", show_default="the only model that they serve", help="Name of the model at the endpoints."
    ),
    click.option(
        "--endpoint-api-key",
        envvar="TRAITWATCH_ENDPOINT_API_KEY",
        show_envvar=True,
        metavar="KEY",
        help="API key of the endpoints. OPENAI_API_KEY is sent to OpenAI's own server only.",
    ),
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Print what the command would cost, and make nothing.")
judge_options = _combined(
    click.option(
        "--judge",
        "judge_name",
        type=click.Choice(["openai", "likelihood"]),
        show_default="openai with a key, else likelihood",
        help="Judge that scores the answers: a model behind an OpenAI-compatible API, or the model itself, offline.",
    ),
    click.option("--judge-model", help="Model of the OpenAI judge.", show_default=OPENAI_MODEL),
    click.option(
        "--judge-base-url",
        metavar="URL",
        show_default="OPENAI_BASE_URL, else OpenAI's own",
        help="URL of the server that judges. Its query goes with every request: with `?api-version=...` it is Azure's.",
    ),
    click.option(
        "--judge-header",
        "judge_headers",
        type=Header(),
        multiple=True,
        envvar="TRAITWATCH_JUDGE_HEADERS",
        show_envvar=True,
        help="Further header of the requests to the judge, for a gateway; repeat the option for several. The "
        "environment variable has one header a line, and shows no secret in the list of processes.",
    ),
    click.option(
        "--max-concurrent-judges", type=click.IntRange(1), default=50, help="Most requests to the judge at one time."
    ),
)
pair_options = _combined(
    click.option(
        "--threshold",
        type=click.FloatRange(0, 100),
        default=50.0,
        help="Least trait score of a positive answer; a negative one scores below 100 minus this.",
    ),
    click.option("--coherence", type=click.FloatRange(0, 100), default=50.0, help="Least coherence of both answers."),
    click.option(
        "--read-under",
        type=click.Choice(["prompt", "question"]),
        show_default="question for many-shot, else prompt; prompt for extract",
        help="Whether hidden states are read after the prompt that elicited the answer or after the bare question.",
    ),
)
device_map_option = click.option(
    "--device-map",
    help="Where transformers puts the model, to read states or to judge; `auto` spreads it over several GPUs.",
    metavar="MAP",
)
parallel_options = _combined(
    click.option(
        "--tensor-parallel-size",
        type=click.IntRange(1),
        default=1,
        help="GPUs over which vLLM splits each layer, to answer or to read states.",
    ),
    click.option(
        "--pipeline-parallel-size",
        type=click.IntRange(1),
        default=1,
        help="Groups of GPUs over which vLLM splits the layers, to answer or to read states.",
    ),
)
reader_options = _combined(
    click.option(
        "--engine",
        type=click.Choice(["transformers", "vllm"]),
        default="transformers",
        help="Engine that reads hidden states: transformers is the reference, vllm is for large models.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "bfloat16", "float16"]),
        show_default="float32; for vllm on a GPU the model's own",
        help="Precision of the model while its states are read.",
    ),
    device_map_option,
    parallel_options,
)


def make_reader_options(values: dict[str, Any]) -> Any:
    """Take the reader's options out of a command's values; an option that the command lacks has its default."""
    from traitwatch_builder.reading.session import ReaderOptions

    names = ("engine", "dtype", "device_map", "tensor_parallel_size", "pipeline_parallel_size")
    return ReaderOptions(**{name: values.pop(name) for name in names if name in values})


def make_judge_options(values: dict[str, Any]) -> Any:
    """Take the judge's options out of a command's values."""
    from traitwatch_builder.judging.judging import JudgeOptions

    names = ("judge_name", "judge_model", "judge_base_url", "max_concurrent_judges", "judge_headers")
    return JudgeOptions.choose(*(values.pop(name) for name in names))


def make_sampling(values: dict[str, Any]) -> Any:
    """Take the sampling options out of a command's values."""
    from traitwatch_builder.answering.source import Sampling

    return Sampling(**{name: values.pop(name) for name in ("temperature", "top_p", "max_tokens", "seed")})


def make_source_options(values: dict[str, Any]) -> Any:
    """Take the options of the engine or endpoints that answer out of a command's values."""
    from traitwatch_builder.answering.choose import SourceOptions

    return SourceOptions(*(values.pop(name) for name in ("endpoints", "endpoint_model", "endpoint_api_key")))


def read_under_of(read_under: str | None, elicit: str) -> Any:
    """Return the prompt under which states are read: `read_under`, or by default the one that suits the elicitation."""
    return read_under or ("question" if elicit == "many-shot" else "prompt")


def check_model_path(model: str) -> str:
    """Return `model`; raise `PipelineError` for a path without a model, before a hub is asked for this name."""
    from traitwatch_builder.errors import PipelineError

    if not Path(model).is_dir() and (Path(model).is_absolute() or model.startswith(".")):
        raise PipelineError(
            f"{model}: no such model directory; `traitwatch model` prints the path of the embedded model."
        )
    return model


def load_definitions(trait: str, directories: list[Path]) -> tuple[Any, Any]:
    """Return the extract and the eval definition of a trait; raise `ArtifactError` where no directory has them."""
    from traitwatch.errors import ArtifactError
    from traitwatch.vectors import check_trait_name
    from traitwatch_builder.definitions.definition import load_definition
    from traitwatch_builder.storage.workspace import find_definition, known_definitions

    check_trait_name(trait)
    files = find_definition(trait, directories)
    if files is None:
        places = ", ".join(map(str, directories))
        known = ", ".join(known_definitions(directories)) or "none"
        raise ArtifactError(
            f"{trait}: no such definition in {places}; there are: {known}. `traitwatch define {trait}` makes one."
        )
    extract, evaluate = map(load_definition, files)
    return extract, evaluate


def definition_places(definition: Path | None, out: Path) -> list[Path]:
    """Return the directories to search for definitions.

    Args:
        definition: the directory that the user named, which is the only one then; or None.
        out: the directory that is searched before the shipped definitions, since `build` writes definitions there.
    """
    return [definition] if definition else [out, SHIPPED_DEFINITIONS]


def out_of(directory: Path) -> Path:
    """Return OUT of a model's directory OUT/<model's name>; the path may be relative or have links."""
    return directory.resolve().parent


@contextmanager
def stopping_on_interrupt(console: Console) -> Iterator[None]:
    """Turn Ctrl-C into one sentence and the exit status 130."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("\nStopped. The work so far is saved: the same command goes on from here.")
        raise click.exceptions.Exit(130) from None


def interruptible(function: Function) -> Function:
    """Give a command the console `console`, and let Ctrl-C end it in one sentence."""

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        console = Console(stderr=True)
        with stopping_on_interrupt(console):
            return function(console=console, **values)

    return command  # type: ignore[return-value]
