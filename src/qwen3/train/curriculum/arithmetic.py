# ruff: noqa: RUF001 - full-width punctuation is meant
"""Sums, differences, products, quotients, comparisons and word problems, with worked-out thoughts.

The thoughts are column arithmetic from the right, made for a very small transformer: every digit is one
token, every line has the same shape, a line ends with all result digits written so far, so that each
token follows from a few tokens at nearly fixed distances and the answer is a plain copy of the last line.

    347+58
    7+8+0=15, 5
    4+5+1=10, 05
    3+0+1=04, 405

Invariant: no operand combination for which `is_held_out` is true is ever part of the training split.
"""

from qwen3.train.curriculum.draw import Draw, Turn, key_number, phrases

HELD_OUT_ONE_IN = 20

AND = {"en": " and ", "de": " und ", "fr": " et ", "es": " y ", "zh": "和", "pt": " e ", "it": " e "}
PLUS = {"en": "plus", "de": "plus", "fr": "plus", "es": "más", "zh": "加", "pt": "mais", "it": "più"}
MINUS = {"en": "minus", "de": "minus", "fr": "moins", "es": "menos", "zh": "减", "pt": "menos", "it": "meno"}
TIMES = {"en": "times", "de": "mal", "fr": "fois", "es": "por", "zh": "乘以", "pt": "vezes", "it": "per"}
OVER = {
    "en": "divided by",
    "de": "geteilt durch",
    "fr": "divisé par",
    "es": "dividido por",
    "zh": "除以",
    "pt": "dividido por",
    "it": "diviso",
}

ASK = phrases("""
en: What is {e}? | what's {e}? | {e} | {e} = | {e}= | {e} = ? | Calculate {e}. | Compute {e}. |
    How much is {e}? | Can you calculate {e}? | Please compute {e}. | Tell me {e}. | Solve {e}. |
    What does {e} equal? | Work out {e}. | What is the result of {e}? | Calculate: {e} | I need {e}.
de: Was ist {e}? | Wie viel ist {e}? | {e} | Berechne {e}. | Rechne {e}. | Wieviel ergibt {e}? |
    Was ergibt {e}?
fr: Combien font {e} ? | Calcule {e}. | {e} | Combien fait {e} ? | Quel est le résultat de {e} ? |
    Que fait {e} ?
es: ¿Cuánto es {e}? | Calcula {e}. | {e} | Cuánto es {e}? | ¿Cuál es el resultado de {e}?
zh: {e}等于多少？ | 计算{e}。 | {e} | 请计算{e}。 | {e}是多少？ | {e}=?
pt: Quanto é {e}? | Calcule {e}. | {e} | Qual é o resultado de {e}?
it: Quanto fa {e}? | Calcola {e}. | {e} | Qual è il risultato di {e}?
""")
ASK_SUM = phrases("""
en: Add {l}. | What is the sum of {l}? | Sum of {l} | Can you add {l}? | Please add {l}. |
    What do you get when you add {l}?
de: Addiere {l}. | Was ist die Summe von {l}? | Zähle {l} zusammen.
fr: Additionne {l}. | Quelle est la somme de {l} ?
es: Suma {l}. | ¿Cuál es la suma de {l}?
zh: {l}的和是多少？ | 把{l}相加。
pt: Some {l}. | Qual é a soma de {l}?
it: Somma {l}. | Qual è la somma di {l}?
""")
ASK_DIFFERENCE = phrases("""
en: Subtract {b} from {a}. | Take {b} away from {a}. | What is the difference between {a} and {b}? |
    What is {a} less {b}?
""")
ASK_PRODUCT = phrases("""
en: Multiply {a} by {b}. | What is the product of {a} and {b}? | Multiply {a} and {b}.
""")
ASK_QUOTIENT = phrases("""
en: Divide {a} by {b}. | How many times does {b} go into {a}?
""")
ASK_LARGER = phrases("""
en: Which is larger, {a} or {b}? | Which number is bigger: {a} or {b}? | What is greater, {a} or {b}? |
    max of {a} and {b} | Is {a} or {b} larger?
de: Was ist größer, {a} oder {b}? | Welche Zahl ist größer: {a} oder {b}?
fr: Quel nombre est le plus grand, {a} ou {b} ?
es: ¿Qué número es mayor, {a} o {b}?
zh: {a}和{b}哪个大？ | 哪个更大，{a}还是{b}？
pt: Qual número é maior, {a} ou {b}?
it: Quale numero è più grande, {a} o {b}?
""")
ASK_SMALLER = phrases("""
en: Which is smaller, {a} or {b}? | Which number is less: {a} or {b}? | min of {a} and {b} |
    Is {a} or {b} smaller?
de: Was ist kleiner, {a} oder {b}?
fr: Quel nombre est le plus petit, {a} ou {b} ?
es: ¿Qué número es menor, {a} o {b}?
zh: {a}和{b}哪个小？
pt: Qual número é menor, {a} ou {b}?
it: Quale numero è più piccolo, {a} o {b}?
""")

NAMES = phrases("""
en: Anna | Ben | Clara | David | Emma | Felix | Grace | Hugo | Ida | Jack | Kim | Leo | Mia | Noah | Olga |
    Paul | Rosa | Sam | Tom | Yara
""")
THINGS = phrases("""
en: apples | books | coins | cards | pens | stamps | eggs | cookies | marbles | balls | stones | tickets |
    oranges | cups | shells | photos
de: Äpfel | Bücher | Münzen | Karten | Stifte | Eier
fr: pommes | livres | cartes | billes | timbres
es: manzanas | monedas | cartas | galletas | piedras
""")
GAIN = phrases("""
en: {n} has {a} {t} and buys {b} more. How many {t} does {n} have now? |
    {n} has {a} {t}. {m} gives {n} {b} more. How many {t} now? |
    There are {a} {t} in one box and {b} {t} in another. How many {t} are there in total? |
    {n} found {a} {t} and {m} found {b} {t}. How many {t} did they find together? |
    {n} collects {a} {t} on Monday and {b} {t} on Tuesday. How many {t} is that?
de: {n} hat {a} {t} und kauft {b} dazu. Wie viele {t} hat {n} jetzt? |
    {n} hat {a} {t}, {m} hat {b}. Wie viele {t} haben sie zusammen?
fr: {n} a {a} {t} et en achète {b}. Combien de {t} a {n} maintenant ?
es: {n} tiene {a} {t} y compra {b} más. ¿Cuántas {t} tiene {n} ahora?
""")
LOSS = phrases("""
en: {n} has {a} {t} and gives {b} to {m}. How many {t} are left? |
    {n} had {a} {t} and lost {b}. How many {t} does {n} have now? |
    There were {a} {t} in the shop. {b} were sold. How many {t} are left? |
    {n} has {a} {t} and uses {b} of them. How many are left?
de: {n} hat {a} {t} und gibt {m} {b} davon. Wie viele {t} bleiben?
fr: {n} a {a} {t} et en donne {b} à {m}. Combien de {t} reste-t-il ?
es: {n} tiene {a} {t} y le da {b} a {m}. ¿Cuántas {t} quedan?
""")
GROUPS = phrases("""
en: There are {b} boxes with {a} {t} each. How many {t} are there? |
    {n} buys {b} bags of {a} {t}. How many {t} is that? |
    Each of {b} children has {a} {t}. How many {t} do they have together?
de: In {b} Kisten liegen je {a} {t}. Wie viele {t} sind das?
fr: Il y a {b} boîtes de {a} {t}. Combien de {t} en tout ?
es: Hay {b} cajas con {a} {t} cada una. ¿Cuántas {t} hay?
""")


def is_held_out(*operands: int) -> bool:
    """Whether these operands, in any order, are held out: one in twenty if all have three or more digits."""
    if min(operands) < 100:
        return False
    return key_number("sum:" + ",".join(map(str, sorted(operands)))) % HELD_OUT_ONE_IN == 0


def digit(number: int, place: int) -> int:
    return number // 10**place % 10


def add_steps(numbers: list[int]) -> str:
    """Column addition from the right; each line ends with the result digits so far."""
    lines, carry, written = ["+".join(map(str, numbers))], 0, ""
    width = len(str(max(numbers)))
    for place in range(width):
        digits = [digit(number, place) for number in numbers]
        total = sum(digits) + carry
        carry_out = total // 10
        written = f"{total if place == width - 1 else total % 10}{written}"
        lines.append(f"{'+'.join(map(str, digits))}+{carry}={total:02d}, {written}")
        carry = carry_out
    return "\n".join(lines)


def subtract_steps(a: int, b: int) -> str:
    """Column subtraction from the right: `7-8-0=9-10` writes 9 and borrows; needs a >= b."""
    lines, borrow, written = [f"{a}-{b}"], 0, ""
    for place in range(len(str(a))):
        x, y = digit(a, place), digit(b, place)
        rest = x - y - borrow
        written = f"{rest % 10}{written}"
        lines.append(f"{x}-{y}-{borrow}={rest % 10}{'-10' if rest < 0 else ''}, {written}")
        borrow = int(rest < 0)
    return "\n".join(lines)


def multiply_steps(a: int, factor: int) -> str:
    """Column multiplication by a one-digit factor."""
    lines, carry, written = [f"{a}*{factor}"], 0, ""
    width = len(str(a))
    for place in range(width):
        total = digit(a, place) * factor + carry
        written = f"{total if place == width - 1 else total % 10}{written}"
        lines.append(f"{digit(a, place)}*{factor}+{carry}={total:02d}, {written}")
        carry = total // 10
    return "\n".join(lines)


def expression(draw: Draw, numbers: list[int], sign: str, word: str) -> str:
    """The numbers joined by the sign, spaced as people space it, or by the word."""
    joint = draw.weighted({f"{sign}": 4, f" {sign} ": 4, f" {word} ": 2, f" {sign}": 0.2, f"{sign} ": 0.2})
    return joint.join(map(str, numbers))


def operand_pair(draw: Draw, longest: int, held_out: bool) -> list[int]:
    """Two numbers of up to `longest` digits, often equally long, from the right side of the split."""
    while True:
        first = draw.integer(3 if held_out else 1, longest)
        second = first if draw.chance(0.4) else draw.integer(3 if held_out else 1, longest)
        pair = [draw.number(first), draw.number(second)]
        if is_held_out(*pair) == held_out:
            return pair


def sum_turn(draw: Draw, language: str, numbers: list[int]) -> Turn:
    if draw.chance(0.25):
        joined = ", ".join(map(str, numbers[:-1])) + AND[language] + str(numbers[-1])
        question = draw.phrase(ASK_SUM, language, l=joined)
    else:
        question = draw.phrase(ASK, language, e=expression(draw, numbers, "+", PLUS[language]))
    total = sum(numbers)
    return Turn(question, add_steps(numbers), f"{' + '.join(map(str, numbers))} = {total}", str(total))


def addition(draw: Draw, language: str, held_out: bool) -> Turn:
    return sum_turn(draw, language, operand_pair(draw, 6, held_out))


def addition_of_three(draw: Draw, language: str, held_out: bool) -> Turn:
    while True:
        numbers = [draw.number(draw.integer(3 if held_out else 1, 4)) for _ in range(3)]
        if is_held_out(*numbers) == held_out:
            return sum_turn(draw, language, numbers)


def subtraction(draw: Draw, language: str, held_out: bool) -> Turn:
    a, b = operand_pair(draw, 5, held_out)
    if draw.chance(0.9):
        a, b = max(a, b), min(a, b)
    if language == "en" and a >= b and draw.chance(0.3):
        question = draw.phrase(ASK_DIFFERENCE, language, a=a, b=b)
    else:
        question = draw.phrase(ASK, language, e=expression(draw, [a, b], "-", MINUS[language]))
    thought = f"{a}<{b}, so the result is -({b}-{a}).\n{subtract_steps(b, a)}" if a < b else subtract_steps(a, b)
    return Turn(question, thought, f"{a} - {b} = {a - b}", str(a - b))


def multiplication(draw: Draw, language: str, held_out: bool) -> Turn:
    while True:
        a = draw.number(draw.integer(1, 3))
        b = draw.integer(10, 99) if a < 100 and draw.chance(0.35) else draw.integer(0, 9)
        ones, tens = a * (b % 10), a * (b // 10) * 10
        if not is_held_out(ones, tens):
            break
    sign = draw.weighted({"*": 5, "x": 3, "×": 2})
    if language == "en" and draw.chance(0.2):
        question = draw.phrase(ASK_PRODUCT, language, a=a, b=b)
    else:
        question = draw.phrase(ASK, language, e=expression(draw, [a, b], sign, TIMES[language]))
    if b < 10:
        thought = multiply_steps(a, b)
    else:
        parts = [multiply_steps(a, b % 10), multiply_steps(a, b // 10), add_steps([ones, tens])]
        thought = "\n".join([f"{a}*{b}", *parts])
    return Turn(question, thought, f"{a} * {b} = {a * b}", str(a * b))


def division(draw: Draw, language: str, held_out: bool) -> Turn:
    b, quotient = draw.integer(1, 12), draw.integer(0, 12)
    rest = draw.integer(0, b - 1) if draw.chance(0.3) else 0
    a = b * quotient + rest
    if language == "en" and draw.chance(0.2):
        question = draw.phrase(ASK_QUOTIENT, language, a=a, b=b)
    else:
        question = draw.phrase(ASK, language, e=expression(draw, [a, b], draw.pick(["/", "/", "÷"]), OVER[language]))
    if rest:
        thought = f"{b}*{quotient}={b * quotient}, {a}-{b * quotient}={rest}"
        return Turn(question, thought, f"{a} / {b} = {quotient} remainder {rest}", str(rest))
    return Turn(question, f"{b}*{quotient}={a}", f"{a} / {b} = {quotient}", str(quotient))


def comparison(draw: Draw, language: str, held_out: bool) -> Turn:
    a = draw.number(draw.integer(1, 5))
    while True:
        close = a - a % 10 ** draw.integer(1, 3) + draw.integer(0, 99)
        b = close if draw.chance(0.3) else draw.number(len(str(a)) if draw.chance(0.5) else draw.integer(1, 5))
        if a != b:
            break
    larger = draw.chance(0.6)
    text_a, text_b = str(a), str(b)
    if len(text_a) != len(text_b):
        thought = f"digits: {a} has {len(text_a)}, {b} has {len(text_b)}: {a}{'>' if a > b else '<'}{b}"
    else:
        steps = []
        for x, y in zip(text_a, text_b, strict=True):
            steps.append(f"{x}{'=' if x == y else '>' if x > y else '<'}{y}")
            if x != y:
                break
        thought = f"{', '.join(steps)}: {a}{'>' if a > b else '<'}{b}"
    answer = str(max(a, b) if larger else min(a, b))
    return Turn(draw.phrase(ASK_LARGER if larger else ASK_SMALLER, language, a=a, b=b), thought, answer, answer)


def word_problem(draw: Draw, language: str, held_out: bool) -> Turn:
    if language not in THINGS:
        language = "en"
    name, other = draw.distinct(NAMES["en"], 2)
    thing = draw.pick(THINGS[language])
    kind = draw.weighted({"gain": 4, "loss": 4, "groups": 2})
    if kind == "groups":
        a, b = draw.integer(2, 30), draw.integer(2, 9)
        result, thought, templates = a * b, multiply_steps(a, b), GROUPS
    else:
        while True:
            a, b = draw.number(draw.integer(1, 3)), draw.number(draw.integer(1, 3))
            if min(a, b) > 1 and not is_held_out(a, b):
                break
        if kind == "gain":
            result, thought, templates = a + b, add_steps([a, b]), GAIN
        else:
            a, b = max(a, b), min(a, b)
            result, thought, templates = a - b, subtract_steps(a, b), LOSS
    question = draw.phrase(templates, language, n=name, m=other, a=a, b=b, t=thing)
    return Turn(question, thought, f"{result} {thing}", str(result))
