"""From frames of rows to the scores of a choice, in the API process.

- `receiver`: the ZeroMQ socket that receives the workers' frames.
- `ledger`: the open calls of the engine; it gives the rows of each frame to their calls, and bounds what is stored.
- `call`: one call of the engine, with the rows and the scores of its choices.
- `choice_rows`: the rows of one choice by their place in the text, and which of them count.
- `row_store`: their projections, in blocks.
- `waiter`: how long an answer or an event waits for rows that are late.
- `scores`: mean, z and spikes of a choice, from its projections.

Begin with `Ledger.deliver`, the path of a frame, and then read the docstring of `choice_rows`.
"""
