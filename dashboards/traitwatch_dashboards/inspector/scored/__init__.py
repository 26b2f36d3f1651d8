"""Scored texts: how they are requested, how they grow, and the lines that show them.

- `inspected_text` is one scored text: tokens, projections and summaries.
- `generation` requests an answer and yields its pieces; `running` runs several generations of one visitor at once.
- `scoring` scores a text that a visitor pasted; `spike_events` reads the server's latest spikes.
- `transcript` holds the messages of one pane; `session` holds everything of one visitor.
- `journal` writes the lines of JSON that `assets/view.js` draws; `tables` compares scores.

Begin with `inspected_text`, then `generation`.
"""
