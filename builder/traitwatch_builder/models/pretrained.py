"""Early checks of a model: it needs a chat template, and room for the longest conversation.

A step runs these checks before the step spends minutes on the model.
"""

import sys
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from traitwatch_builder.errors import PipelineError


def load_tokenizer(model: Path | str) -> Any:
    """Return the model's tokenizer.

    Raises:
        PipelineError: the model cannot be loaded, or it has no chat template.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except Exception as error:
        # transformers and what it uses raise errors of a dozen kinds on a damaged file.
        raise _unusable(model, error) from error
    if not tokenizer.chat_template:
        raise PipelineError(f"{model} has no chat template; give an instruction-tuned model.")
    return tokenizer


def check_length(model: Path | str, longest_prompt: int, max_tokens: int) -> int:
    """Check that the model has room for the longest conversation.

    Args:
        model: the model's directory or hub name.
        longest_prompt: the tokens of the longest prompt.
        max_tokens: the most tokens of an answer.

    Returns:
        The tokens of the longest conversation, its answer included.

    Raises:
        PipelineError: the conversation is too long for the model, or the model cannot be loaded.
    """
    needed = longest_prompt + max_tokens
    limit = length_limit(model)
    if needed > limit:
        raise PipelineError(
            f"the longest conversation takes {longest_prompt} tokens and its answer up to {max_tokens}, but {model} "
            f"has room for {limit}: lower --max-tokens, shorten the definition's examples, or choose another model."
        )
    return needed


def length_limit(model: Path | str) -> int:
    """Return the most tokens of a text for the model; `sys.maxsize` if the model's configuration sets no limit.

    Raises:
        PipelineError: the model cannot be loaded.
    """
    return getattr(_text_config(model), "max_position_embeddings", None) or sys.maxsize


def model_size(model: Path | str) -> tuple[int, int] | None:
    """Return the decoder layers of a model and its hidden size; None where its hub cannot be reached.

    Raises:
        PipelineError: the model's directory has no usable configuration.
    """
    try:
        config = _text_config(model)
    except PipelineError:
        if Path(model).is_dir():
            raise
        return None
    layers, width = getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)
    if not (isinstance(layers, int) and isinstance(width, int) and layers > 0 and width > 0):
        raise PipelineError(f"{model}: its config.json gives {layers} layers of width {width}; it is damaged.")
    return layers, width


def _text_config(model: Path | str) -> Any:
    try:
        return AutoConfig.from_pretrained(model).get_text_config()
    except Exception as error:
        raise _unusable(model, error) from error


def _unusable(model: Path | str, error: Exception) -> PipelineError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return PipelineError(
        f"{str(model) or 'An empty name'} cannot be loaded as a model ({lines[0].rstrip(' :.')}). "
        "Give a model directory or a hub name; `traitwatch model` prints the path of the embedded model."
    )
