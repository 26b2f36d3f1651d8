"""`traitwatch define`: from a trait's name to its definition."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from traitwatch.errors import ArtifactError
from traitwatch_builder.definitions.define import DEFAULT_CLAUDE_MODEL

if TYPE_CHECKING:
    from traitwatch_builder.definitions.definition import WholeDefinition


@click.command("define", context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("trait")
@click.option("--description", help="Your meaning of the trait, in a sentence or two.")
@click.option(
    "--definitions",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    help="Directory for trait_data_extract/ and trait_data_eval/.",
)
@click.option("--claude-model", default=DEFAULT_CLAUDE_MODEL, help="The Claude model that writes the definition.")
@click.option("--print-prompt", is_flag=True, help="Print a prompt to paste into any assistant, and do not ask Claude.")
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="Take the JSON that an assistant or a person wrote; - for standard input.",
)
@click.option(
    "--split",
    is_flag=True,
    help="Take any number of questions from 4 on with --from: the first half makes the vector, the second tests it.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print the cost of asking Claude, or check the given file; write nothing."
)
@click.option("--force", is_flag=True, help="Replace a definition that exists and differs.")
def define_command(
    *,
    trait: str,
    description: str | None,
    definitions: Path,
    claude_model: str,
    print_prompt: bool,
    source: str | None,
    split: bool,
    dry_run: bool,
    force: bool,
) -> None:
    """Write the definition of TRAIT: instructions, questions, judge prompt and examples.

    Claude writes it, with the key in ANTHROPIC_API_KEY. Without a key, paste a prompt into any assistant:

    \b
        traitwatch define sycophancy --description "telling people what they want to hear"
        traitwatch define sycophancy --print-prompt > prompt.txt
        traitwatch define sycophancy --from answer.json

    The command checks the definition before it writes a file. Half of the questions go to trait_data_extract/ and make
    the vector. The other half go to trait_data_eval/ and test the vector.
    """
    from traitwatch.vectors import check_trait_name
    from traitwatch_builder.definitions.define import define_prompt
    from traitwatch_builder.definitions.definition import check_free

    if print_prompt and source is not None:
        raise click.UsageError("--print-prompt and --from exclude each other: print the prompt first.")
    if split and source is None:
        raise click.UsageError("--split belongs to --from: it divides the questions of that file.")
    check_trait_name(trait)
    if print_prompt:
        click.echo(define_prompt(trait, description, pasted=True))
        return
    console = Console(stderr=True)
    try:
        if source is not None:
            whole = _read(console, source, description, split)
            if dry_run:
                _say(console, f"{_named(source)} is a usable definition of {trait}; nothing was written.")
                return
            _save(console, definitions, trait, whole, force)
            return
        if not force:
            check_free(definitions, trait)
        if dry_run:
            tell_dry_run(console, trait, description, claude_model)
            return
        ask_claude(console, definitions, trait, description, claude_model, force=force)
    except KeyboardInterrupt:
        _say(console, "\nStopped. Nothing was written.")
        raise click.exceptions.Exit(130) from None


def ask_claude(
    console: Console, directory: Path, trait: str, description: str | None, claude_model: str, *, force: bool
) -> None:
    """Ask Claude for a definition, save it and print its cost; if saving fails, the definition goes to the cache."""
    from traitwatch_builder.definitions.define import define_trait, keep

    whole, usage = define_trait(trait, description, claude_model, console)
    try:
        _save(console, directory, trait, whole, force)
    except BaseException:
        path = keep(trait, whole.model_dump_json(indent=1))
        _say(console, f"The definition is saved in {path}; `traitwatch define {trait} --from` takes it.")
        raise
    finally:
        _say(console, f"Cost: {usage}, by {claude_model}.")


def _read(console: Console, source: str, description: str | None, any_number: bool) -> "WholeDefinition":
    """Read a definition that an assistant or a person wrote; `description` is used where the definition has none."""
    from traitwatch.files import decoded
    from traitwatch_builder.definitions.define import parse_reply
    from traitwatch_builder.definitions.definition import whole_definition

    with click.open_file(source, "rb") as file:
        raw = file.read()
    data = parse_reply(decoded(raw, _named(source)), _named(source))
    own = data.get("description")
    if description and own is not None and str(own).strip():
        _say(console, f"{_named(source)} has a description of its own, which stays; --description is not used.")
    elif description:
        data["description"] = description
    try:
        return whole_definition(data, _named(source), any_number=any_number)
    except ArtifactError as error:
        raise ArtifactError("\n".join([str(error), *_advice(data, any_number)])) from None


def _advice(data: dict[str, Any], any_number: bool) -> list[str]:
    """Return which options supply what a definition lacks."""
    from traitwatch_builder.definitions.definition import NUM_QUESTIONS

    advice = []
    if not str(data.get("description") or "").strip():
        advice.append("Give the meaning of the trait with --description.")
    questions = data.get("questions")
    if isinstance(questions, list) and len(questions) != NUM_QUESTIONS and not any_number:
        advice.append(
            "--split takes another number of questions. Two files that are halves already, as those of the Persona "
            "Vectors authors, need no `define`: put them into DIR/trait_data_extract/ and DIR/trait_data_eval/, and "
            "give --definition DIR to the other commands."
        )
    return advice


def _save(console: Console, directory: Path, trait: str, whole: "WholeDefinition", force: bool) -> None:
    from traitwatch_builder.definitions.definition import save_definition

    paths = save_definition(directory, trait, whole, force=force)
    test = len(whole.questions) // 2
    make = len(whole.questions) - test
    _say(
        console,
        f"Defined {trait}: {len(whole.instruction)} instruction pairs, {make} + {test} questions (1 to {make} make the "
        f"vector, the rest test it), {len(whole.examples)} examples.",
    )
    for path in paths:
        click.echo(path)


def tell_dry_run(console: Console, trait: str, description: str | None, claude_model: str) -> None:
    """Print what asking Claude would cost."""
    from traitwatch_builder.clients.claude import MAX_TOKENS
    from traitwatch_builder.definitions.define import estimated_input_tokens

    tokens = estimated_input_tokens(trait, description)
    _say(
        console,
        f"Would ask {claude_model} for a definition of {trait}: 1 call (2, where the first answer is unusable), about "
        f"{tokens:,} input tokens and at most {MAX_TOKENS:,} output tokens each. Nothing was asked.",
    )


def _named(source: str) -> str:
    return "standard input" if source == "-" else source


def _say(console: Console, text: Any) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
