"""What each token shows, where an event of a stream has both its tokens and the text that they add.

The two differ: the text leaves out a stop token, a character of several tokens comes with the last of them (each of
them alone reads as a replacement character), and text that might have become a stop string comes late.
"""

from collections.abc import Sequence


def shown_texts(tokens: Sequence[str], text: str) -> list[str]:
    """Share a text out among its tokens.

    Args:
        tokens: the tokens, as each reads alone; at least one.
        text: what they add to the answer.

    Returns:
        What each token shows. Joined, it is `text`: what fits no token is shown with the last one.
    """
    shown: list[str] = []
    place = 0
    for token in tokens:
        fits = text.startswith(token, place)
        shown.append(token if fits else "")
        place += len(shown[-1])
    shown[-1] += text[place:]
    return shown
