"""`traitwatch judge`: scores for answers files."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from traitwatch_builder.commands.options import (
    CONTEXT,
    EXISTING_FILE,
    check_model_path,
    definition_option,
    definition_places,
    device_map_option,
    elicit_options,
    interruptible,
    judge_options,
    load_definitions,
    make_judge_options,
    out_of,
)


@click.command("judge", context_settings=CONTEXT)
@click.argument("trait")
@click.option(
    "--csv",
    "files",
    type=EXISTING_FILE,
    multiple=True,
    required=True,
    help="Answers file with the columns question, prompt, answer, question_id, into which the scores go; repeat the "
    "option for several files.",
)
@click.option("--model", help="The model that wrote the answers, for --judge likelihood.")
@definition_option("the directory above that of the answers")
@elicit_options
@judge_options
@device_map_option
@click.option("--dry-run", is_flag=True, help="Print what the scores would cost, and ask no judge.")
@interruptible
def judge_command(
    *,
    console: Console,
    trait: str,
    files: tuple[Path, ...],
    model: str | None,
    definition: Path | None,
    elicit: Any,
    assistant_name: str | None,
    device_map: str | None,
    dry_run: bool,
    **values: Any,
) -> None:
    """Score answers for TRAIT and for coherence, 0 to 100; a score that the judge refuses stays empty.

    Each score is saved at once, beside the files: an interrupted run goes on, and no answer is judged twice.

    \b
        traitwatch judge paternalism --csv vectors/MODEL/paternalism_pos.csv --csv vectors/MODEL/paternalism_neg.csv
    """
    options = make_judge_options(values)
    extract, _ = load_definitions(trait, _places(trait, definition, files))

    from traitwatch_builder.definitions.elicitation import Elicitation
    from traitwatch_builder.errors import PipelineError
    from traitwatch_builder.judging.judging import (
        check_useful,
        cost_estimate,
        judge_answers,
        make_judge,
        pending,
        questions_of,
        usage_printed,
    )
    from traitwatch_builder.models.pretrained import load_tokenizer
    from traitwatch_builder.progress import warn
    from traitwatch_builder.storage.answers import JudgedAnswer, check_any, read_answers, write_scores
    from traitwatch_builder.storage.doubts import prompts_doubt
    from traitwatch_builder.storage.worklog import Worklog
    from traitwatch_builder.storage.workspace import Workspace

    if options.name == "likelihood" and model is None:
        raise PipelineError("the likelihood judge is the model that wrote the answers: name this model with --model.")
    judged: dict[Path, list[JudgedAnswer]] = {}
    rows = {path: read_answers(path, trait) for path in files}
    for path, answers in rows.items():
        check_any(path, answers)
    if options.name == "likelihood":
        tokenizer = load_tokenizer(check_model_path(model or ""))
        for path, answers in rows.items():
            warn(console, prompts_doubt(tokenizer, model or "", path, answers))
    judge = make_judge(
        options,
        extract.eval_prompt,
        Elicitation(extract, elicit, trait, assistant_name),
        check_model_path(model or ""),
        console,
        device_map,
    )
    with usage_printed(judge, console):
        for directory in dict.fromkeys(path.parent for path in files):
            workspace = Workspace(directory, trait)
            mine = [path for path in files if path.parent == directory]
            with workspace.alone(), Worklog(workspace.log("scores")) as log:
                todo = pending(judge, [q for path in mine for q in questions_of(rows[path])], log)
                if dry_run:
                    cost = cost_estimate(judge, list(todo.values())) if todo else "nothing to do"
                    console.print(f"{directory}: {len(todo)} scores to give by {judge.card.name}; {cost}.")
                    continue
                for path in mine:
                    scored = judge_answers(judge, options, rows[path], log, console, f"scores: {path.name}")
                    write_scores(path, trait, scored)
                    count = sum(row.trait is not None for row in scored)
                    console.print(f"{path}: {count} of {len(scored)} answers have a trait score.")
                    judged[path] = scored
    for path, scored in judged.items():
        check_useful(scored, str(path))


def _places(trait: str, definition: Path | None, files: tuple[Path, ...]) -> list[Path]:
    """Return the directories to search for the definition, which has to be the same for all answers files."""
    from traitwatch_builder.errors import PipelineError
    from traitwatch_builder.storage.workspace import find_definition

    places = [definition_places(definition, out_of(file.parent)) for file in files]
    found = dict.fromkeys(find_definition(trait, directories) for directories in places)
    if len(found) > 1:
        names = ", ".join(str(halves[0]) if halves else "none" for halves in found)
        raise PipelineError(
            f"the answers files belong to different definitions of {trait} ({names}): judge the files one by one, or "
            "give one definition for all of them with --definition."
        )
    return places[0]
