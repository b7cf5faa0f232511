# ruff: noqa: RUF001 - full-width punctuation is meant
"""Small tasks on words and lists: spell, reverse, count, first and last, sort, upper and lower case.

Words come from a fixed list of common words and, one time in four, from made-up syllables, so that the
model learns to spell and not only to recall. Thoughts spell a word letter by letter, each letter a token.
"""

from qwen3.train.curriculum.draw import Draw, Turn, phrases

COMMON_WORDS = """
answer apple autumn baker balloon banana basket beach bear berry bicycle black blanket blue boat book bottle
branch brave bread bridge bright brother brown butter candle carrot castle cat chair cheese cherry child
church city clever cloud coffee computer dance dark desert doctor dog driver drum eagle earth elephant
engine evening family farmer father fish flower forest fox friend funny garden gentle giraffe golden grape
grass green guitar hammer happy hello hidden honey horse hospital hotel house island juice king kitchen
ladder language large leaf lemon lesson letter library lion little loud market melon milk mirror mississippi
model monkey moon morning mother mountain mouse museum music night number ocean onion open orange paper
parrot peach pencil pepper piano picture pigeon pillow pink plane planet potato purple queen question quick
quiet rabbit rain raspberry red rice river rocket root sad school science seed ship silver simple singer
sister slow small snake snow song soup spring star station stone storm story strawberry street strong
student success sugar summer sun table teacher theater thunder tiger today token tomato tomorrow tower train
tree turtle valley village violin water week wheel white wind window winter wolf word world yellow yesterday
zebra
"""
WORDS = COMMON_WORDS.split()
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
ENDINGS = ["", "", "n", "r", "s", "t", "l", "m"]

REVERSE = phrases("""
en: Reverse the word {w}. | Spell {w} backwards. | Write {w} backwards. | What is "{w}" reversed? |
    Reverse "{w}" | reverse {w}
de: Schreibe {w} rückwärts. | Drehe das Wort {w} um.
fr: Écris {w} à l'envers.
es: Escribe {w} al revés.
zh: 把{w}倒过来写。
pt: Escreva {w} ao contrário.
it: Scrivi {w} al contrario.
""")
SPELL = phrases("""
en: Spell {w}. | How do you spell {w}? | Spell the word "{w}". | What are the letters of {w}? |
    Spell {w} letter by letter.
""")
COUNT_LETTER = phrases("""
en: How many {x}'s are in {w}? | How many times does the letter {x} occur in "{w}"? |
    Count the letter {x} in {w}. | How many {x} in {w}? | How often is {x} in the word {w}? |
    How many {x}s are there in {w}?
""")
LENGTH = phrases("""
en: How many letters are in {w}? | How many letters does {w} have? | How long is the word "{w}"? |
    Count the letters of {w}.
de: Wie viele Buchstaben hat {w}?
fr: Combien de lettres a {w} ?
es: ¿Cuántas letras tiene {w}?
zh: {w}有几个字母？
pt: Quantas letras tem {w}?
it: Quante lettere ha {w}?
""")
END_LETTER = phrases("""
en: What is the {p} letter of {w}? | {p} letter of {w}? | Which letter comes {p} in "{w}"? |
    Give me the {p} letter of {w}.
""")
UPPER = phrases("""
en: Write {w} in upper case. | Convert {w} to uppercase. | Make "{w}" all caps. | uppercase {w} |
    {w} in capital letters
""")
LOWER = phrases("""
en: Write {w} in lower case. | Convert {w} to lowercase. | Make "{w}" lowercase. | lowercase {w} |
    {w} in small letters
""")
END_ITEM = phrases("""
en: What is the {p} item of this list: {l}? | {p} element of {l}? | Which word is {p} in the list {l}? |
    Give me the {p} item: {l}
""")
COUNT_ITEMS = phrases("""
en: How many items are in this list: {l}? | How many words: {l}? | Count the items: {l} |
    How long is the list {l}?
""")
SORT_NUMBERS = phrases("""
en: Sort these numbers: {l} | Sort {l}. | Put {l} in order. | Sort the list {l} in ascending order. |
    Order {l} from small to large.
de: Sortiere {l}. | Sortiere die Zahlen {l}.
fr: Trie {l}. | Range ces nombres : {l}
es: Ordena {l}. | Ordena los números {l}.
zh: 把{l}从小到大排列。
pt: Ordene {l}.
it: Ordina {l}.
""")
SORT_WORDS = phrases("""
en: Sort these words: {l} | Sort {l} alphabetically. | Put {l} in alphabetical order. | Alphabetize {l}.
""")
EXTREME = phrases("""
en: What is the {p} number in {l}? | Find the {p} of {l}. | Which is the {p} of these numbers: {l}? |
    {p} of {l}
""")
REVERSE_LIST = phrases("""
en: Reverse the list {l}. | Reverse this list: {l} | Write {l} in reverse order.
""")


def word(draw: Draw, shortest: int = 3) -> str:
    while True:
        if draw.chance(0.75):
            text = draw.pick(WORDS)
        else:
            text = "".join(draw.pick(SYLLABLES) for _ in range(draw.integer(2, 3))) + draw.pick(ENDINGS)
        if len(text) >= shortest:
            return text


def letters(text: str) -> str:
    """The letters with spaces between, so that each one is a token of its own."""
    return " ".join(text)


def reverse_word(draw: Draw, language: str, held_out: bool) -> Turn:
    text = word(draw)
    backwards = text[::-1]
    return Turn(draw.phrase(REVERSE, language, w=text), f"{letters(text)}\n{letters(backwards)}", backwards, backwards)


def spell(draw: Draw, language: str, held_out: bool) -> Turn:
    text = word(draw)
    spelled = "-".join(text.upper())
    return Turn(draw.phrase(SPELL, language, w=text), letters(text), spelled, spelled)


def count_letter(draw: Draw, language: str, held_out: bool) -> Turn:
    text = word(draw, shortest=4)
    letter = draw.pick(text) if draw.chance(0.85) else draw.pick("abcdefghiklmnoprstu")
    count, steps = 0, []
    for each in text:
        count += each == letter
        steps.append(f"{each}{count}" if each == letter else each)
    content = f"{count} time{'' if count == 1 else 's'}"
    return Turn(
        draw.phrase(COUNT_LETTER, language, x=letter, w=text),
        f"{letter} in {' '.join(steps)}: {count}",
        content,
        str(count),
    )


def count_letters(draw: Draw, language: str, held_out: bool) -> Turn:
    text = word(draw)
    steps = " ".join(f"{each}{place}" for place, each in enumerate(text, 1))
    return Turn(draw.phrase(LENGTH, language, w=text), steps, str(len(text)), str(len(text)))


def end_letter(draw: Draw, language: str, held_out: bool) -> Turn:
    text, first = word(draw), draw.chance(0.5)
    answer = text[0] if first else text[-1]
    question = draw.phrase(END_LETTER, language, p="first" if first else "last", w=text)
    return Turn(question, letters(text), answer, answer)


def change_case(draw: Draw, language: str, held_out: bool) -> Turn:
    words = [word(draw) for _ in range(draw.integer(1, 2))]
    lower = " ".join(words)
    if draw.chance(0.6):
        question = draw.phrase(UPPER, language, w=lower)
        return Turn(question, letters(lower.upper().replace(" ", "")), lower.upper(), lower.upper())
    text = " ".join(each.upper() for each in words) if draw.chance(0.7) else " ".join(each.title() for each in words)
    return Turn(draw.phrase(LOWER, language, w=text), letters(lower.replace(" ", "")), lower, lower)


def item_list(draw: Draw, count: int) -> list[str]:
    return draw.distinct(WORDS, count)


def end_item(draw: Draw, language: str, held_out: bool) -> Turn:
    items = item_list(draw, draw.integer(3, 5))
    place = draw.weighted({"first": 3, "last": 3, "second": 2, "third": 1})
    index = {"first": 0, "second": 1, "third": 2, "last": len(items) - 1}[place]
    thought = " ".join(f"{number} {item}" for number, item in enumerate(items, 1))
    return Turn(draw.phrase(END_ITEM, language, p=place, l=", ".join(items)), thought, items[index], items[index])


def count_items(draw: Draw, language: str, held_out: bool) -> Turn:
    items = item_list(draw, draw.integer(2, 7))
    thought = " ".join(f"{number} {item}" for number, item in enumerate(items, 1))
    return Turn(draw.phrase(COUNT_ITEMS, language, l=", ".join(items)), thought, str(len(items)), str(len(items)))


def number_list(draw: Draw, count: int) -> list[int]:
    return [draw.number(draw.integer(1, 2)) for _ in range(count)]


def sort_numbers(draw: Draw, language: str, held_out: bool) -> Turn:
    numbers = number_list(draw, draw.integer(3, 5))
    rest, steps = list(numbers), []
    while rest:
        smallest = min(rest)
        rest.remove(smallest)
        steps.append(f"{smallest} left {' '.join(map(str, rest))}".rstrip() if rest else str(smallest))
    answer = ", ".join(map(str, sorted(numbers)))
    return Turn(draw.phrase(SORT_NUMBERS, language, l=", ".join(map(str, numbers))), "\n".join(steps), answer, answer)


def extreme_number(draw: Draw, language: str, held_out: bool) -> Turn:
    numbers, largest = number_list(draw, draw.integer(3, 5)), draw.chance(0.5)
    choose = max if largest else min
    best, steps = numbers[0], [str(numbers[0])]
    for number in numbers[1:]:
        best = choose(best, number)
        steps.append(f"{number}: {best}")
    name = draw.pick(["largest", "biggest", "maximum"] if largest else ["smallest", "minimum"])
    return Turn(
        draw.phrase(EXTREME, language, p=name, l=", ".join(map(str, numbers))),
        ", ".join(steps),
        str(best),
        str(best),
    )


def sort_words(draw: Draw, language: str, held_out: bool) -> Turn:
    items = item_list(draw, draw.integer(2, 4))
    ordered = sorted(items)
    thought = " ".join(f"{item[:2]}" for item in items) + ": " + " ".join(f"{item[:2]}" for item in ordered)
    return Turn(draw.phrase(SORT_WORDS, language, l=", ".join(items)), thought, ", ".join(ordered), ", ".join(ordered))


def reverse_list(draw: Draw, language: str, held_out: bool) -> Turn:
    items = item_list(draw, draw.integer(2, 5))
    thought = " ".join(f"{number} {item}" for number, item in enumerate(items, 1))
    answer = ", ".join(reversed(items))
    return Turn(draw.phrase(REVERSE_LIST, language, l=", ".join(items)), thought, answer, answer)
