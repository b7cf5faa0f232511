"""Conversations for training: a task's turn, earlier turns, a system message, and the thinking switch.

`sample` is a pure function of (seed, index, split). It follows the thinking-mode fusion of the Qwen3
report (section 4.3): with the hard switch on, `/think` and `/no_think` in user or system text say whether
the think block is filled or empty, the latest one wins, and without any the model thinks; with the hard
switch off the prompt already holds the empty think block, and flags mean nothing.
Only the last message is a target; the others are context. Tokens and templates are not known here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from qwen3.engine.rules import BUDGET_SENTENCE
from qwen3.train.curriculum import arithmetic, dates, dialogue, recall, text_tasks
from qwen3.train.curriculum.draw import Draw, Turn

# The share of each task among the examples, in percent; "recall", which has a length, only where it is asked for.
TASKS = {
    "addition": (27, arithmetic.addition),
    "addition_of_three": (9, arithmetic.addition_of_three),
    "subtraction": (6, arithmetic.subtraction),
    "multiplication": (4, arithmetic.multiplication),
    "division": (2, arithmetic.division),
    "comparison": (3, arithmetic.comparison),
    "word_problem": (4, arithmetic.word_problem),
    "reverse_word": (3, text_tasks.reverse_word),
    "spell": (1.5, text_tasks.spell),
    "count_letter": (2, text_tasks.count_letter),
    "count_letters": (1.5, text_tasks.count_letters),
    "end_letter": (1.5, text_tasks.end_letter),
    "change_case": (1.5, text_tasks.change_case),
    "end_item": (1.5, text_tasks.end_item),
    "count_items": (1, text_tasks.count_items),
    "sort_numbers": (2, text_tasks.sort_numbers),
    "extreme_number": (1, text_tasks.extreme_number),
    "sort_words": (1, text_tasks.sort_words),
    "reverse_list": (1, text_tasks.reverse_list),
    "day_next_to": (1.5, dates.day_next_to),
    "day_later": (1.5, dates.day_later),
    "month_order": (1.5, dates.month_order),
    "month_days": (0.5, dates.month_days),
    "days_between": (1, dates.days_between),
    "unit_conversion": (1.5, dates.unit_conversion),
    "small_talk": (6, dialogue.small_talk),
    "about_itself": (8, dialogue.about_itself),
    "out_of_scope": (6, dialogue.out_of_scope),
}
RECALL = "recall"
# Earlier turns are answered in the plain, so they are kept to tasks with short questions.
EARLIER_TASKS = {
    "small_talk": 3,
    "about_itself": 1,
    "addition": 3,
    "comparison": 1,
    "day_next_to": 1,
    "end_letter": 1,
}
LANGUAGES = {"en": 0.76, "de": 0.06, "fr": 0.04, "es": 0.04, "zh": 0.04, "pt": 0.03, "it": 0.03}
SYSTEM_MESSAGES = [
    "You are a helpful assistant.",
    "You are a small model. Answer briefly.",
    "Answer the question.",
    "Be brief and correct.",
]
SPLITS = ("train", "held_out")


@dataclass(frozen=True)
class Example:
    """A conversation whose last message is the target.

    `thinking` is the hard switch for rendering the prompt `messages[:-1]`; whether the target thinks is its
    `reasoning_content` (empty or not). `answer` is None where any sensible reply is right.
    """

    messages: list[dict[str, str]]
    thinking: bool
    task: str
    answer: str | None
    tools: list[dict] | None = None
    is_cut: bool = False
    """Whether a spent budget ended the thought, so that only the answer is the model's own."""
    language: str = "en"
    """Of the last question and its answer; thoughts are in English."""


def flagged(draw: Draw, text: str, flag: str | None) -> str:
    if flag is None:
        return text
    return draw.weighted({f"{text} {flag}": 8, f"{flag} {text}": 1, f"{text}\n{flag}": 1})


def conversation(draw: Draw, turns: list[Turn], task: str) -> Example:
    """The turns as chat messages, with random flags and the mode that they imply."""
    hard_switch = draw.chance(0.7)
    mode = True
    messages = []
    if draw.chance(0.12):
        flag = draw.pick(["/think", "/no_think"]) if draw.chance(0.6) else None
        system = flag if flag and draw.chance(0.3) else flagged(draw, draw.pick(SYSTEM_MESSAGES), flag)
        messages.append({"role": "system", "content": system})
        mode = flag != "/no_think"
    for turn in turns:
        flag = draw.weighted({None: 4, "/think": 3, "/no_think": 3}) if hard_switch or draw.chance(0.2) else None
        if flag:
            mode = flag == "/think"
        thought = turn.thought if hard_switch and mode else ""
        messages.append({"role": "user", "content": flagged(draw, turn.question, flag)})
        messages.append({"role": "assistant", "reasoning_content": thought, "content": turn.content})
    return Example(messages, hard_switch, task, turns[-1].answer, language=draw.spoken)


def cut(draw: Draw, example: Example) -> Example:
    """The example with its thought, if it has one, ended anywhere as `engine.guide` ends it."""
    *before, target = example.messages
    if not (thought := target["reasoning_content"]):
        return example
    ending = BUDGET_SENTENCE.removesuffix("\n</think>\n\n")
    target = {**target, "reasoning_content": thought[: draw.integer(1, len(thought))] + ending}
    return replace(example, messages=[*before, target], is_cut=True)


def sample(
    seed: int,
    index: int,
    *,
    split: str = "train",
    shares: Mapping[str, float] | None = None,
    words: int = 0,
    cut_thoughts: float = 0.0,
) -> Example:
    """Example number `index` of the stream `seed`: the same for ever, whatever was sampled before.

    `split="held_out"` draws sums and differences only from operands that training never sees; the other
    tasks have too few distinct questions to hold any out, there it is merely another stream. `shares` replace those of
    `TASKS`; `words` is the length of the longest document in which `recall` looks something up, `cut_thoughts` the
    share of thoughts that a budget ends.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, not {split!r}")
    draw = Draw(f"{split}:{seed}:{index}")
    held_out = split == "held_out"
    language = draw.weighted(LANGUAGES)
    if unknown := set(shares or ()) - {*TASKS, RECALL}:
        raise ValueError(f"there is no task {min(unknown)!r}: choose among {', '.join([*TASKS, RECALL])}")
    task = draw.weighted({name: weight for name, (weight, _) in TASKS.items()} | dict(shares or {}))
    if task == RECALL:
        # Evenly from an eighth of the length on, so that three quarters of all words are in texts above the half.
        turns = [recall.recall(draw, draw.integer(words // 8, words))]
    else:
        earlier = [draw.weighted(EARLIER_TASKS) for _ in range(draw.weighted({0: 80, 1: 14, 2: 6}))]
        turns = [TASKS[name][1](draw, language, held_out) for name in [*earlier, task]]
    made = conversation(draw, turns, task)
    return cut(draw, made) if draw.chance(cut_thoughts) else made


def held_out_sums(count: int, seed: int) -> list[Example]:
    """`count` different sums whose operands training never sees: one plain question each, hard switch on.

    Seven in ten add two numbers of 4-6 digits, the others three numbers of 3-4 digits.
    """
    examples: dict[tuple[int, ...], Example] = {}
    draw = Draw(f"held_out_sums:{seed}")
    while len(examples) < count:
        if draw.chance(0.7):
            task, numbers = "addition", [draw.number(draw.integer(4, 6)) for _ in range(2)]
        else:
            task, numbers = "addition_of_three", [draw.number(draw.integer(3, 4)) for _ in range(3)]
        if not arithmetic.is_held_out(*numbers):
            continue
        turn = arithmetic.sum_turn(draw, draw.weighted(LANGUAGES), numbers)
        target = {"role": "assistant", "reasoning_content": turn.thought, "content": turn.content}
        messages = [{"role": "user", "content": turn.question}, target]
        examples.setdefault(tuple(sorted(numbers)), Example(messages, True, task, turn.answer))
    return list(examples.values())


def passkey(words: int, seed: int, index: int) -> Example:
    """A text of about `words` words with one key in it, and the question for it: one plain question, hard switch on."""
    turn = recall.recall(Draw(f"passkey:{seed}:{index}"), words, keys=1)
    target = {"role": "assistant", "reasoning_content": turn.thought, "content": turn.content}
    return Example([{"role": "user", "content": turn.question}, target], True, RECALL, turn.answer)


def score(example: Example, content: str) -> bool:
    """Whether `content` ends in the example's answer: the last number, or the last words, is right."""
    if example.answer is None:
        raise ValueError(f"task {example.task!r} has no single right answer to score")
    if re.fullmatch(r"-?\d+", example.answer):
        numbers = re.findall(r"-?\d+", re.sub(r"(?<=\d),(?=\d{3}\b)", "", content))
        return bool(numbers) and numbers[-1] == example.answer
    ending = content.strip().rstrip(".!\"'*")
    return ending == example.answer or ending.endswith(
        (" " + example.answer, '"' + example.answer, "*" + example.answer)
    )
