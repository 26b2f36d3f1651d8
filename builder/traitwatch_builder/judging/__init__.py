"""Scores of answers, 0 to 100: how much an answer shows the trait, and how coherent it is.

- `judge.py`: the protocol of a judge: `Question`, `Score`, `Judge`.
- `likelihood.py`: the judge that is the model itself. It works offline and without an API key.
- `openai_judge.py`: the judge behind an OpenAI-compatible server.
- `methods.py`: how the OpenAI judge asks a model for a score.
- `replies.py`: how a score is read from a reply.
- `probe.py`: two questions with known scores, which find a judge that is of no use.
- `run.py`: one pass over questions, several at a time.
- `judging.py`: chooses the judge, asks it about the answers without a score, and stores each score at once.

Begin with `judge.py`, then read `judge_answers` in `judging.py`.
"""
