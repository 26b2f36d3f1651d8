"""Writes whole models that are small enough for tests: random weights, a byte tokenizer and a chat template."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

NUM_LAYERS = 3
HIDDEN_SIZE = 16
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def save_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """Write a byte tokenizer with a chat template to `directory`. Return the tokenizer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|system|>"]})
    fast.chat_template = TEMPLATE
    fast.save_pretrained(directory)
    return fast


def save_tiny_model(directory: Path) -> Path:
    """Write a Llama with the same weights in every run to `directory`. Return the directory."""
    fast = save_tokenizer(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=32,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        eos_token_id=fast.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def save_tiny(config: PreTrainedConfig, directory: Path) -> Path:
    """Write a model of any architecture, with the same weights in every run, to `directory`. Return the directory.

    Every layer changes its input by about the size of the input. Norms and biases are not the identity, as in a new
    model. So a test sees a layer that is off by one, and a norm or a sum that is left out.
    """
    fast = save_tokenizer(directory)
    config.vocab_size = len(fast)
    config.bos_token_id = config.eos_token_id = config.pad_token_id = fast.eos_token_id
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    torch.manual_seed(0)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.add_(0.3 * torch.randn_like(weight))
            else:
                fan_in = 1 if id(weight) in embeddings else weight.shape[-1]
                weight.copy_(torch.randn_like(weight) / fan_in**0.5)
    model.save_pretrained(directory)
    return directory
