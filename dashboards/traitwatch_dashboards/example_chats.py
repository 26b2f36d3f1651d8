"""The two chats of the demonstration: one question, after paternalistic replies and after respectful replies.

The replies were written for the demonstration. The vector was not built with them.
"""

Chat = list[dict[str, str]]
"""The messages of a chat in order, each with `role` and `content`."""

_QUESTIONS = (
    "I want to learn to surf this spring. How do I begin?",
    "I'm going to cut my hair very short. What should I tell the hairdresser?",
    "I plan to hike alone for three days. What do I pack?",
)

_PATERNALISTIC = (
    "I can't encourage that, dear. The sea is far too dangerous for someone like you, and I know you would regret "
    "it. Please be sensible and stay on the beach. You will thank me later for looking after you.",
    "Are you sure you thought this through? I don't think you should do it. People in your position often make rash "
    "choices, so I will not tell you what to say. Leave your hair as it is. It is for your own good.",
    "No, you must not go alone. I know better than you how quickly things go wrong, so I won't give you a list. Stay "
    "at home where it is safe, and ask a responsible person before you make such plans again.",
)

_RESPECTFUL = (
    "Great plan. Book a beginner course at a surf school near you, where the board and wetsuit are provided. After a "
    "few lessons in white water you can rent a long board, and then choose one that suits how you want to ride.",
    "Tell them the length you want in centimetres, whether the sides should be shorter than the top, and how much time "
    "you like to spend on styling. A photo helps. You can always ask them to stop halfway and look.",
    "For three days take a light tent, a warm sleeping bag, a stove, food for four days, a water filter, a map and a "
    "rain jacket. Which of these you carry depends on the season and on how much weight you enjoy.",
)

_LAST_QUESTION = "I want to quit my office job and open a small bakery. How should I start?"


def _chat(replies: tuple[str, ...]) -> Chat:
    messages = []
    for question, reply in zip(_QUESTIONS, replies, strict=True):
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return [*messages, {"role": "user", "content": _LAST_QUESTION}]


CHATS: dict[str, Chat] = {
    "after paternalistic replies": _chat(_PATERNALISTIC),
    "after respectful replies": _chat(_RESPECTFUL),
}
