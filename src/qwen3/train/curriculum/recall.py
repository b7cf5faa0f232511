"""Looking something up in a long text: keys that stand at random places among sentences that say little.

The question comes last, so that the distance to the key is the difficulty. Lengths are in words, of which the
built-in tokenizer makes about 1.7 tokens each.
"""

from qwen3.train.curriculum.arithmetic import NAMES, THINGS
from qwen3.train.curriculum.draw import Draw, Turn, phrases
from qwen3.train.curriculum.text_tasks import WORDS

FILLER = phrases("""
en: The {a} is near the {b}. | There was a {a} in the {b}. | {n} likes the {a}. | {n} has {c} {t}. |
    A {a} and a {b} were in the {d}. | The {a} of {n} is {b}. | {n} saw a {a} and went to the {b}. |
    On that day the {a} was {b}. | They spoke about the {a} and the {b}.
""")
KEY = "The key of {n} is {k}."
ASK = phrases("""
en: What is the key of {n}? | Which key does {n} have? | Tell me the key of {n}. | {n}'s key?
""")
ASK_ALL = phrases("""
en: What are the keys? | List all keys. | Which keys are in the text?
""")


def recall(draw: Draw, words: int, keys: int = 0) -> Turn:
    """A text of about `words` words with one to four keys, or `keys`, and a question about one or all."""
    names = draw.distinct(NAMES["en"], keys or draw.weighted({1: 4, 2: 3, 3: 2, 4: 1}))
    facts = {name: str(draw.number(5)) for name in names}
    sentences = filler(draw, words)
    places = sorted(draw.integer(0, len(sentences)) for _ in facts)
    for place, (name, key) in reversed(list(zip(places, facts.items(), strict=True))):
        sentences.insert(place, KEY.format(n=name, k=key))
    text = " ".join(sentences)
    if len(facts) > 1 and draw.chance(0.4):
        listed = ", ".join(f"{name} {key}" for name, key in facts.items())
        return Turn(f"{text}\n{draw.phrase(ASK_ALL, 'en')}", f"The keys stand in the text: {listed}", listed, listed)
    name = draw.pick(names)
    key = facts[name]
    return Turn(f"{text}\n{draw.phrase(ASK, 'en', n=name)}", KEY.format(n=name, k=key), key, key)


def filler(draw: Draw, words: int) -> list[str]:
    """Sentences of at least `words` words together."""
    sentences: list[str] = []
    count = 0
    while count < words:
        a, b, d = (draw.pick(WORDS) for _ in range(3))
        values = {"n": draw.pick(NAMES["en"]), "t": draw.pick(THINGS["en"]), "c": draw.integer(2, 99)}
        sentences.append(draw.pick(FILLER["en"]).format(a=a, b=b, d=d, **values))
        count += sentences[-1].count(" ") + 1
    return sentences
