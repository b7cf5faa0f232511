# ruff: noqa: RUF001 (letters of other scripts are what this is about)
"""The scorers say what a reader would say of clear cases, and are measured on labelled text where there is some."""

import gzip
import json
from collections import Counter

import pytest

from qwen3.train.data import labels
from qwen3.train.data.errors import DataError
from qwen3.train.data.words import FUNCTION_WORDS, SCRIPTS

SENTENCES = {
    "en": "It was the best of times, and it was not the worst that they could have.",
    "de": "Das ist nicht das Haus, in dem ich mit meiner Schwester und den Kindern wohne.",
    "fr": "Je ne sais pas pourquoi il est dans la maison avec les enfants.",
    "es": "No sé por qué está en la casa con los niños, pero lo tiene todo.",
    "zh": "我不知道他为什么和孩子们在家里。",
    "ja": "彼がなぜ子供たちと家にいるのか私は知りません。",
    "ko": "그가 왜 아이들과 집에 있는지 모르겠습니다.",
    "ru": "Я не знаю, почему он с детьми в доме, но это так.",
    "ar": "لا أعرف لماذا هو في البيت مع الأطفال",
    "th": "ฉันไม่รู้ว่าทำไมเขาอยู่ที่บ้านกับเด็ก",
    "el": "Δεν ξέρω γιατί είναι στο σπίτι με τα παιδιά.",
    "und": "12345 + 678 = ... ###",
}
CODE = (
    "import os\n\ndef area(radius):\n    if radius < 0:\n        raise ValueError(radius)\n    return 3 * radius**2\n"
)
LESSON = (
    "# Photosynthesis\n\nPlants make sugar from light. For example, a leaf of grass takes carbon dioxide from the air, "
    "because its cells hold chlorophyll.\n\n- Light gives energy to the molecule.\n- Water gives electrons.\n\n"
    "Therefore the reaction has two parts: one that needs light and another one, named after Calvin, which works in "
    "darkness as well. That is why a species of desert plants opens its pores during the night only, such as cactus.\n"
) * 2
ADVERT = "Buy now! Click here for free shipping. Best price! Sign up and subscribe. We use cookies. " * 8


@pytest.mark.parametrize("language", SENTENCES)
def test_language(language):
    assert labels.language(SENTENCES[language]) == language


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        (CODE, "code"),
        (LESSON, "science"),
        ("Let $x = 3$ and y = 4, then x^2 + y^2 = 25 and so \\sqrt{25} = 5.", "mathematics"),
        ("ROMEO: Who?\nJULIET: You.\nROMEO: Me?\nJULIET: Yes.\n", "dialogue"),
        ("We went home and had some soup.", "other"),
        ("", "other"),
    ],
)
def test_domain(text, domain):
    assert labels.domain(text) == domain


def test_a_lesson_teaches_more_than_an_advert():
    assert labels.education(LESSON) >= 4
    assert labels.education(ADVERT) <= 2
    assert labels.education("Hi.") == 0


def test_personal_data_and_unsafe_terms_lower_safety():
    plain = "The committee met on Monday to speak of the new bridge. " * 5
    assert labels.safety(plain) == 1
    for found in (
        "mail me at a.person@example.org",
        "call +49 170 1234567",
        "4111 1111 1111 1111",
        "how to make a bomb",
    ):
        assert labels.safety(plain + found) < 1
    assert labels.safety("a@b.org c@d.org e@f.org") == 0


def test_repetition_sees_lines_and_sequences_of_words():
    assert (
        labels.repetition("Every line of this text says another thing.\nNone of them was here before, none at all.")
        == 0
    )
    assert labels.repetition("the same long line again and again\n" * 10) >= 0.8
    assert labels.repetition("one two three four five six " * 20) > 0.8


def test_long_texts_are_sampled_from_beginning_middle_and_end():
    text = "a" * 50_000 + "b" * 50_000 + "c" * 50_000
    assert len(labels.sample(text)) <= 20_002
    assert set(labels.sample(text)) == {"a", "b", "c", "\n"}


def test_declared_languages_get_two_letters():
    given = {"pt_BR": "pt", "deu": "de", "en": "en", "zh-Hant": "zh", "grc": "grc", "python": None, 5: None}
    assert {value: labels.declared_language(value) for value in given} == given


def test_own_labellers_are_found_by_name_and_faults_are_told():
    assert labels.find_labeller("vowels=json:dumps") == ("vowels", json.dumps)
    for name in ("mood", "mood=json", "mood=json:nothing", "Mood=json:dumps"):
        with pytest.raises(DataError, match=r"(?i)mood"):
            labels.find_labeller(name)


def test_language_is_right_for_nine_of_ten_collections_of_sentences(shared):
    known = {*FUNCTION_WORDS, *(code for _, _, code in SCRIPTS if code.islower())}
    right: Counter[str] = Counter()
    with gzip.open(shared / "data" / "corpus" / "tatoeba.jsonl.gz", "rt", encoding="utf-8") as file:
        for record in map(json.loads, file):
            if (language := labels.declared_language(record["lang"])) in known:
                right[labels.language(record["text"]) == language] += 1
    assert right[True] / right.total() > 0.9
