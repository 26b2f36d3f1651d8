"""The local model: its files, its chat template, and a vLLM engine that runs it.

- `chat.py`: conversations as the chat template renders them, and the thinking of reasoning models.
- `pretrained.py`: loads the tokenizer, and checks that a model has room for the longest conversation.
- `embedded.py`: the embedded model, fetched from a Python package and converted once.
- `vllm_engine.py`: the start and the end of a vLLM engine in this process.

No module here knows of traits. Begin with `chat.py`.
"""
