"""Clients of paid APIs and of chat servers.

- `chat_completions.py`: a client of OpenAI's Chat Completions, for the judge and for answers. It waits as long as a
  server demands, and puts errors into plain words. `in_background` and `in_parallel` run its asynchronous work.
- `address.py`: the address and the key of a chat server.
- `completion.py`: the parts of a chat completion that we use, checked.
- `claude.py`: one structured answer of Claude, for a trait's definition.
- `usage.py`: calls and tokens, which every client counts.

The clients know nothing of traits. Begin with `usage.py`, then read `ChatClient` in `chat_completions.py`.
"""
