"""Answers to the conversations of a build.

- `source.py`: the protocol of a source of answers (`Answers`), and what goes in and out: `Sampling`, `ChatPrompt`,
  `Answer`.
- `engine.py`: the source that is a vLLM engine of our own.
- `endpoint.py`: the source that is one or several OpenAI-compatible servers.
- `choose.py`: which of the two a build uses.
- `respond.py`: the conversations of each answers file (`Job`), and the `Responder`, which asks a source for the answers
  that are missing and stores each answer at once.

Begin with `source.py`, then read `respond.py`.
"""
