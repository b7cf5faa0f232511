# ruff: noqa: RUF001 - full-width punctuation is meant
"""The curriculum is reproducible, right in its arithmetic, honest in its splits, and covers both modes."""

import calendar
import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3.train import curriculum
from qwen3.train.curriculum import arithmetic, dates, dialogue, text_tasks
from qwen3.train.curriculum.draw import Draw, phrases
from qwen3.train.curriculum.example import LANGUAGES

COUNT = 4000


@cache
def examples() -> list[curriculum.Example]:
    return [curriculum.sample(0, index) for index in range(COUNT)]


def digest(seed: int, count: int) -> str:
    stream = json.dumps([asdict(curriculum.sample(seed, index)) for index in range(count)])
    return hashlib.sha256(stream.encode()).hexdigest()


def test_a_sample_depends_on_nothing_but_seed_index_and_split():
    forward = [curriculum.sample(3, index) for index in range(50)]
    backward = [curriculum.sample(3, index) for index in reversed(range(50))]
    assert forward == backward[::-1]
    assert curriculum.sample(3, 0) != curriculum.sample(4, 0)
    assert curriculum.sample(3, 0) != curriculum.sample(3, 0, split="held_out")


def test_another_process_with_another_hash_seed_gives_the_same_stream():
    code = (
        "import json; from dataclasses import asdict; from qwen3.train import curriculum; import hashlib;"
        "s = json.dumps([asdict(curriculum.sample(7, i)) for i in range(200)]);"
        "print(hashlib.sha256(s.encode()).hexdigest())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "99"}
    )
    assert result.stdout.strip() == digest(7, 200)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="held_out"):
        curriculum.sample(0, 0, split="test")


def test_every_task_occurs_with_its_share():
    seen = Counter(example.task for example in examples())
    whole = sum(weight for weight, _ in curriculum.TASKS.values())
    for name, (weight, _) in curriculum.TASKS.items():
        expected = COUNT * weight / whole
        assert abs(seen[name] - expected) < 5 * expected**0.5, name


def test_a_conversation_has_the_language_of_its_last_question():
    marks = {
        "zh": r"[\u4e00-\u9fff]",
        "de": r"\b(ist|wie|was|der|die|das|und)\b",
        "en": r"\b(is|what|the|how|of|you)\b",
    }
    questions = [(each.messages[-2]["content"].lower(), each.language) for each in examples()]
    assert all(language == "zh" for text, language in questions if re.search(marks["zh"], text))
    # Some are nothing but a sum.
    for language in marks:
        own = [text for text, spoken in questions if spoken == language]
        found = {mark: sum(bool(re.search(pattern, text)) for text in own) for mark, pattern in marks.items()}
        assert max(found, key=found.get) == language
        assert found[language] > len(own) / 2
    # Tables without a language speak English.
    counts = Counter(example.language for example in examples())
    assert set(counts) == set(LANGUAGES)
    assert counts["en"] >= COUNT * LANGUAGES["en"]


def test_every_target_passes_its_own_score_and_a_wrong_answer_does_not():
    for example in examples():
        if example.answer is None:
            continue
        content = example.messages[-1]["content"]
        assert curriculum.score(example, content), example
        assert not curriculum.score(example, content + " 7777777 zzz")
        assert not curriculum.score(example, "")


def test_a_key_stands_in_its_text_and_only_where_it_is_asked_for():
    assert not any(example.task == "recall" for example in examples())
    lengths = []
    for index in range(200):
        example = curriculum.sample(0, index, shares={"recall": 1e9}, words=400)
        text, _, question = example.messages[-2]["content"].rpartition("\n")
        assert example.task == "recall"
        assert all(key in text for key in re.findall(r"\d{5}", example.answer))
        assert not re.search(r"\d{5}", question)
        assert curriculum.score(example, example.messages[-1]["content"])
        lengths.append(len(example.messages[-2]["content"].split()))
    assert 50 <= min(lengths) < 100
    assert 370 < max(lengths) < 460
    # Long texts hold most of the words: the long stage's mix of lengths.
    assert sum(each for each in lengths if each > 200) > 0.65 * sum(lengths)


def test_a_passkey_is_one_key_in_a_text_of_the_asked_length():
    for index in range(50):
        example = curriculum.passkey(300, 0, index)
        question = example.messages[0]["content"]
        assert re.findall(r"\d{5}", question) == [example.answer]
        assert 300 <= len(question.split()) < 330
    assert curriculum.passkey(300, 0, 0) == curriculum.passkey(300, 0, 0) != curriculum.passkey(300, 1, 0)


def test_shares_of_tasks_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="no task 'sums'"):
        curriculum.sample(0, 0, shares={"sums": 1.0})


def test_scoring_a_dialogue_is_an_error():
    example = next(example for example in examples() if example.answer is None)
    with pytest.raises(ValueError, match="no single right answer"):
        curriculum.score(example, "Hello!")


def test_the_last_number_counts_with_or_without_separators():
    example = curriculum.Example([], True, "addition", "1171")
    assert curriculum.score(example, "581 + 590 = 1171")
    assert curriculum.score(example, "The answer is **1,171**.")
    assert not curriculum.score(example, "1171 + 1 = 1172")
    assert not curriculum.score(example, "-1171")
    assert not curriculum.score(example, "11710")


def expected_thinking(example: curriculum.Example) -> bool:
    """The rule of the model card, read off the text: the latest flag wins, only while the hard switch is on."""
    asked = " ".join(m["content"] for m in example.messages if m["role"] != "assistant")
    flags = re.findall(r"/think|/no_think", asked)
    return example.thinking and (not flags or flags[-1] == "/think")


def test_the_target_thinks_exactly_when_the_switches_say_so():
    for example in examples():
        assert bool(example.messages[-1]["reasoning_content"]) == expected_thinking(example), example


def test_both_modes_have_good_coverage_in_every_task():
    for name in curriculum.TASKS:
        group = [example for example in examples() if example.task == name]
        thinks = sum(bool(example.messages[-1]["reasoning_content"]) for example in group) / len(group)
        assert 0.2 < thinks < 0.75, name


def test_roles_alternate_and_the_last_message_is_the_target():
    turns = Counter()
    for example in examples():
        roles = [message["role"] for message in example.messages]
        spoken = roles[1:] if roles[0] == "system" else roles
        assert spoken == ["user", "assistant"] * (len(spoken) // 2)
        assert all(message["content"].strip() for message in example.messages)
        turns[len(spoken) // 2] += 1
    assert set(turns) == {1, 2, 3}


def test_arithmetic_targets_are_what_python_computes():
    checked = 0
    for example in examples():
        equation = example.messages[-1]["content"]
        if match := re.fullmatch(r"([\d +*-]+) = (-?\d+)", equation):
            assert sum_or_product(match[1]) == int(match[2]), equation
            checked += 1
        thought = example.messages[-1]["reasoning_content"]
        for left, right in re.findall(r"^([\d+*-]+)=(\d+(?:-10)?),", thought, flags=re.MULTILINE):
            assert sum_or_product(left) == sum_or_product(right), thought
    assert checked > COUNT / 3


def sum_or_product(text: str) -> int:
    """An independent reading of `a+b*c-d`."""
    total = 0
    for sign, term in re.findall(r"([+-]?)\s*([\d* ]+)", text):
        product = 1
        for factor in term.split("*"):
            product *= int(factor)
        total += -product if sign == "-" else product
    return total


@given(st.lists(st.integers(0, 10**6 - 1), min_size=2, max_size=3))
def test_column_addition_ends_in_the_sum(numbers):
    assert arithmetic.add_steps(numbers).rsplit(", ", 1)[1] == str(sum(numbers))


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_column_subtraction_ends_in_the_difference(a, b):
    a, b = max(a, b), min(a, b)
    assert int(arithmetic.subtract_steps(a, b).rsplit(", ", 1)[1]) == a - b


@given(st.integers(0, 10**4), st.integers(0, 9))
def test_column_multiplication_ends_in_the_product(a, factor):
    assert int(arithmetic.multiply_steps(a, factor).rsplit(", ", 1)[1]) == a * factor


def operands(text: str) -> list[tuple[int, ...]]:
    """The operands of every written sum in a text."""
    return [tuple(map(int, each.split("+"))) for each in re.findall(r"\d+(?:\+\d+)+", text.replace(" ", ""))]


def test_training_never_shows_a_held_out_sum():
    seen = 0
    for example in examples():
        for message in example.messages:
            for text in (message["content"], message.get("reasoning_content", "")):
                for numbers in operands(text):
                    assert not arithmetic.is_held_out(*numbers), numbers
                    seen += min(numbers) >= 100
    assert seen > 500


def test_held_out_sums_are_distinct_multi_digit_and_held_out():
    sums = curriculum.held_out_sums(500, seed=1)
    assert sums == curriculum.held_out_sums(500, seed=1)
    numbers = [operands(example.messages[-1]["content"])[0] for example in sums]
    assert len({tuple(sorted(each)) for each in numbers}) == 500
    assert all(arithmetic.is_held_out(*each) for each in numbers)
    assert all(min(each) >= (1000 if len(each) == 2 else 100) for each in numbers)
    assert {len(each) for each in numbers} == {2, 3}
    assert all(curriculum.score(example, f"= {sum(each)}") for example, each in zip(sums, numbers, strict=True))


def test_one_pair_in_twenty_is_held_out_in_either_order():
    draw = Draw("pairs")
    pairs = [(draw.number(4), draw.number(5)) for _ in range(20000)]
    assert 0.045 < sum(arithmetic.is_held_out(*pair) for pair in pairs) / len(pairs) < 0.055
    assert all(arithmetic.is_held_out(a, b) == arithmetic.is_held_out(b, a) for a, b in pairs[:500])


def test_days_and_months_follow_the_calendar():
    assert dates.DAYS["en"] == list(calendar.day_name)
    assert list(calendar.month_name)[1:] == dates.MONTHS
    assert [calendar.monthrange(2023, month)[1] for month in range(1, 13)] == dates.MONTH_LENGTHS


def test_a_phrase_table_goes_on_in_indented_lines():
    table = phrases("""
en: What is {e}? | How much
    is {e}? |
    {e}
zh: {e}是多少？
""")
    assert table == {"en": ["What is {e}?", "How much is {e}?", "{e}"], "zh": ["{e}是多少？"]}


@pytest.mark.parametrize("module", [arithmetic, dates, dialogue, text_tasks])
def test_no_phrase_is_empty_or_misread(module):
    tables = [each for each in vars(module).values() if isinstance(each, dict) and isinstance(each.get("en"), list)]
    assert tables
    for table in tables:
        for language, items in table.items():
            assert language in LANGUAGES
            assert all(item and item == item.strip() and "|" not in item for item in items), (language, items)
