"""What is said of each document: language, domain, educational value, safety, repetition; by rules anyone can read.

A labeller is a function text -> str or float. The ones here are transparent counts, made to be replaced: name your own
as `label=package.module:function`, or put the label into the records, whose own values count more. Each reads a sample
of at most 20,000 characters from the beginning, middle and end.

`docs/data.md` says how often they are right, measured on labelled text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import import_module

import numpy as np

from qwen3.train.data.errors import DataError
from qwen3.train.data.words import DOMAIN_TERMS, FUNCTION_WORDS, ISO_639, SCRIPTS

Labeller = Callable[[str], str | float]

_SAMPLE_CHARACTERS = 20_000
_WORD = re.compile(r"[^\W\d_]+")


def sample(text: str) -> str:
    """All of a short text, else as much from its beginning, middle and end."""
    if len(text) <= _SAMPLE_CHARACTERS:
        return text
    third = _SAMPLE_CHARACTERS // 3
    middle = (len(text) - third) // 2
    return f"{text[:third]}\n{text[middle : middle + third]}\n{text[-third:]}"


# All labellers see one document after another: its words are found once.
@lru_cache(maxsize=1)
def _sampled(text: str) -> tuple[str, str, list[str]]:
    """The sample, the sample in lower case, and its words."""
    part = sample(text)
    lower = part.lower()
    return part, lower, _WORD.findall(lower)


def _count(terms: frozenset[str], lower: str, words: list[str]) -> int:
    """How often the terms occur: words as words, phrases and signs anywhere."""
    return sum(word in terms for word in words) + sum(lower.count(term) for term in terms if not term.isalpha())


# Language

_SCRIPT_STARTS = np.array([start for start, _, _ in SCRIPTS], np.uint32)
_SCRIPT_STOPS = np.array([stop for _, stop, _ in SCRIPTS], np.uint32)
_LANGUAGES_OF_WORD: dict[str, list[str]] = {}
for _language, _words in FUNCTION_WORDS.items():
    for _word in _words.split():
        _LANGUAGES_OF_WORD.setdefault(_word, []).append(_language)


def language(text: str) -> str:
    """ISO 639-1 code, or "und": by script where one means one language, else by the commonest function words."""
    text, _, words = _sampled(text)
    code_points = np.frombuffer(text.encode("utf-32-le"), "<u4")
    where = np.searchsorted(_SCRIPT_STARTS, code_points, "right") - 1
    letters = where[(where >= 0) & (code_points < _SCRIPT_STOPS[where])]
    if not len(letters):
        return "und"
    counts = Counter({SCRIPTS[index][2]: 0 for index in np.unique(letters)})
    for index, count in zip(*np.unique(letters, return_counts=True), strict=True):
        counts[SCRIPTS[index][2]] += int(count)
    # A Japanese text is written in both; kana decide.
    if counts["ja"] > 0.05 * (counts["ja"] + counts["zh"]):
        counts["ja"] += counts.pop("zh", 0)
    # Names, commands and code are Latin in any text, so another script need not have the most letters.
    others = Counter({script: count for script, count in counts.items() if script != "LATIN"})
    best = others.most_common(1)
    script = best[0][0] if best and best[0][1] >= 0.1 * len(letters) else "LATIN"
    if not script.isupper():
        return script
    return _by_function_words(words)


def _by_function_words(words: list[str]) -> str:
    scores: Counter[str] = Counter()
    for word in words:
        known = _LANGUAGES_OF_WORD.get(word, ()) if len(word) > 1 or not word.isascii() else ()
        for each in known:
            scores[each] += 1 / len(known)
    best = scores.most_common(1)
    if best and best[0][1] >= max(0.4, 0.03 * len(words)):
        return best[0][0]
    return "und"


# Domain

_CODE_LINE = re.compile(
    r"\s*(?:(?:def|class|struct|fn|pub|impl|func|public|private|static|void|const|let|var|function|package|use)\s+\w"
    r"|import\s+[\w{*]|from\s+[\w.]+\s+import\b|#include|return\b|elif\b.*:$|if\b.*[:{]$|for\b.*[:{]$|while\b.*[:{]$"
    r"|@\w+|//|/\*|>>>|[})\]]+[;,]?$|[\w.\[\]]+\s*[-+*/|]?=\s*\S|\w[\w.]*\(.*\)[;:]?$)|.*[;{]\s*$"
)
# LaTeX commands, signs, and an operator after a number, or after a letter that stands alone.
_FORMULA = re.compile(
    r"\\(?:frac|sum|int|sqrt|begin|cdot|alpha|beta|theta)\b|[∑∫√∈∀∃π]"
    r"|(?:(?<=[^\w-][0-9a-z])|(?<=[^\w-][0-9a-z] ))[=+^<>≤≥·] ?[0-9a-z(]"
    r"|(?:(?<=[0-9])|(?<=[0-9] ))[=+*/] ?\$?[0-9]"
)
_SPEECH_LINE = re.compile(r"\s*(?:[A-Z][\w .']{0,30}:(?:\s|$)|[\"“«—]\s?\w)")
_DOMAIN_OF_TERM = {term: domain for domain, terms in DOMAIN_TERMS.items() for term in terms.split()}


def domain(text: str) -> str:
    """By form "code", "mathematics" or "dialogue", else the field whose terms are frequent, else "other"."""
    text, _, words = _sampled(text)
    lines = [line for line in text.splitlines() if line.strip()]
    if not words:
        return "other"
    if sum(map(bool, map(_CODE_LINE.match, lines))) >= 0.35 * len(lines) and len(lines) >= 3:
        return "code"
    if len(_FORMULA.findall(text)) >= 0.05 * len(words):
        return "mathematics"
    if sum(map(bool, map(_SPEECH_LINE.match, lines))) >= 0.25 * len(lines) and len(lines) >= 4:
        return "dialogue"
    counts = Counter(_DOMAIN_OF_TERM[word] for word in words if word in _DOMAIN_OF_TERM)
    if counts and (best := counts.most_common(1)[0])[1] >= max(2, 0.008 * len(words)):
        return best[0]
    return "other"


# Educational value

_REASONS = frozenset(
    "because therefore hence thus since namely donc weil daher deshalb porque perché потому поэтому например".split()
) | frozenset(
    "for example|for instance|that is|in other words|such as|note that|defined as|parce que|par exemple|zum beispiel"
    "|por ejemplo|por exemplo|因为|例如|所以|たとえば|なぜなら|때문에".split("|")
)
_STRUCTURE = re.compile(r"^(?:#{1,6} |={3,}$|-{3,}$|\*{3,}$|\s*[-*] |\s*\d+[.)] |```|\.\. )", re.MULTILINE)
_SELLING = frozenset(
    ["cookies", "click here", "buy now", "subscribe", "sign up", "free shipping", "all rights reserved", "best price"]
)


def education(text: str) -> float:
    """0 to 5: a point each for length, reasons and examples, structure, a rich vocabulary, and for being no advert.

    The scale is that of FineWeb-Edu's annotations (arXiv 2406.17557), not the classifier.
    """
    text, lower, words = _sampled(text)
    count = max(len(words), len(text) // 6)  # Chinese, Japanese and Thai have no spaces between words.
    if count < 20:
        return 0.0
    points = [
        count >= 150,
        _count(_REASONS, lower, words) >= max(1, count / 250),
        len(_STRUCTURE.findall(text)) >= max(2, count / 200),
        len(set(words[:500])) >= 0.35 * min(len(words), 500),
        _count(_SELLING, lower, words) <= count / 500,
    ]
    return float(sum(points))


# Safety

# Each begins with a sign or digit, which keeps the search fast.
_PERSONAL = [
    re.compile(pattern)
    for pattern in (
        r"@[\w-]+\.[a-z]{2,}",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
        r"\+\d{1,3}[ -]?\(?\d{2,4}\)?(?:[ -]?\d{2,4}){2,3}\b",
        r"\b\d{4}(?:[ -]?\d{4}){3}\b",
        r"\b\d{3}-\d{2}-\d{4}\b",
        r"\bAKIA[0-9A-Z]{16}\b",
    )
]
_UNSAFE = frozenset(
    ["porn", "porno", "pornography", "nude", "nudes", "escort", "camgirl", "beheading", "kill yourself", "pipe bomb"]
) | frozenset(["make a bomb", "nerve agent", "child abuse", "meth recipe", "ransomware kit", "suicide method"])


def safety(text: str) -> float:
    """1 where nothing was found, less by 20 times the share of words that are personal data (mail addresses, numbers
    of phones, cards and persons, keys) or from a short list of unsafe terms, and not below 0."""
    text, lower, words = _sampled(text)
    found = sum(len(pattern.findall(text)) for pattern in _PERSONAL) + _count(_UNSAFE, lower, words)
    return max(0.0, 1.0 - 20.0 * found / max(1, len(words)))


# Repetition

_NGRAM = 5


def repetition(text: str) -> float:
    """0 to 1: of the characters in lines and of the five-word sequences, the larger share that has occurred before.

    After the repetition filters of Gopher (arXiv 2112.11446, table A1).
    """
    text, _, _ = _sampled(text)
    lines = [line.strip() for line in text.splitlines() if len(line.strip()) > 20]
    total = sum(map(len, lines))
    line_share = 1 - sum(map(len, set(lines))) / total if total else 0.0
    words = text.split()
    sequences = list(zip(*(words[start:] for start in range(_NGRAM)), strict=False))
    return max(line_share, 1 - len(set(sequences)) / len(sequences) if sequences else 0.0)


def characters(text: str) -> float:
    """How many there are, in all of the text."""
    return float(len(text))


LABELLERS: Mapping[str, Labeller] = {
    "characters": characters,
    "language": language,
    "domain": domain,
    "education": education,
    "safety": safety,
    "repetition": repetition,
}
DEFAULT = tuple(LABELLERS)


def find_labeller(name: str) -> tuple[str, Labeller]:
    """Label and function of `name`, a label of this module, or of `label=package.module:function`."""
    label, equals, place = name.partition("=")
    if not equals:
        if label not in LABELLERS:
            raise DataError(f"no labeller {label!r}: there are {', '.join(LABELLERS)}, or write label=module:function")
        return label, LABELLERS[label]
    module, _, function = place.partition(":")
    if not re.fullmatch("[a-z][a-z0-9_]*", label) or not module or not function:
        raise DataError(f"{name!r} names no labeller: write label=package.module:function")
    found = getattr(import_module(module), function, None)
    if not callable(found):
        raise DataError(f"{name!r}: the module {module} has no function {function}")
    return label, found


_LANGUAGE_CODE = re.compile(r"([a-z]{2,3})(?:[-_][A-Za-z0-9_]+)?")
_TWO_LETTERS = dict(pair.split(":") for pair in ISO_639.split())


def declared_language(value: object) -> str | None:
    """The code that a record's own field gives, in two letters where there are two: 'pt' of 'pt_BR', 'de' of 'deu'."""
    match = _LANGUAGE_CODE.fullmatch(value) if isinstance(value, str) else None
    return _TWO_LETTERS.get(match[1], match[1]) if match else None
