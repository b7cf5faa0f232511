# ruff: noqa: RUF001 - full-width punctuation is meant
"""Days, months, time differences within a month, and how units relate."""

from qwen3.train.curriculum.draw import Draw, Turn, phrases

DAYS = phrases("""
en: Monday | Tuesday | Wednesday | Thursday | Friday | Saturday | Sunday
de: Montag | Dienstag | Mittwoch | Donnerstag | Freitag | Samstag | Sonntag
fr: lundi | mardi | mercredi | jeudi | vendredi | samedi | dimanche
es: lunes | martes | miércoles | jueves | viernes | sábado | domingo
zh: 星期一 | 星期二 | 星期三 | 星期四 | 星期五 | 星期六 | 星期日
pt: segunda-feira | terça-feira | quarta-feira | quinta-feira | sexta-feira | sábado | domingo
it: lunedì | martedì | mercoledì | giovedì | venerdì | sabato | domenica
""")
MONTHS = phrases("""
en: January | February | March | April | May | June | July | August | September | October | November |
    December
""")["en"]
MONTH_LENGTHS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]

DAY_AFTER = phrases("""
en: What day comes after {d}? | Which day is after {d}? | Today is {d}. What day is tomorrow? |
    What is the day after {d}?
de: Welcher Tag kommt nach {d}? | Heute ist {d}. Welcher Tag ist morgen?
fr: Quel jour vient après {d} ?
es: ¿Qué día viene después de {d}?
zh: {d}的后一天是星期几？
pt: Que dia vem depois de {d}?
it: Che giorno viene dopo {d}?
""")
DAY_BEFORE = phrases("""
en: What day comes before {d}? | Which day is before {d}? | Today is {d}. What day was yesterday?
de: Welcher Tag kommt vor {d}? | Heute ist {d}. Welcher Tag war gestern?
fr: Quel jour vient avant {d} ?
es: ¿Qué día viene antes de {d}?
zh: {d}的前一天是星期几？
pt: Que dia vem antes de {d}?
it: Che giorno viene prima di {d}?
""")
DAY_LATER = phrases("""
en: Today is {d}. What day is it in {n} days? | What day is {n} days after {d}? |
    If today is {d}, what day is it in {n} days? | {n} days after {d}?
de: Heute ist {d}. Welcher Tag ist in {n} Tagen?
fr: Nous sommes {d}. Quel jour serons-nous dans {n} jours ?
es: Hoy es {d}. ¿Qué día será dentro de {n} días?
zh: 今天是{d}。{n}天后是星期几？
pt: Hoje é {d}. Que dia será daqui a {n} dias?
it: Oggi è {d}. Che giorno sarà tra {n} giorni?
""")
MONTH_AFTER = phrases("""
en: What month comes after {m}? | Which month follows {m}? | What is the month after {m}? |
    next month after {m}
""")
MONTH_BEFORE = phrases("""
en: What month comes before {m}? | Which month is before {m}? | What is the month before {m}?
""")
MONTH_NUMBER = phrases("""
en: What number is {m}? | Which number of the year is the month {m}? | What is the number of the month {m}?
""")
MONTH_NAME = phrases("""
en: What is month number {n}? | Which month is number {n}? | What is the name of month {n}?
""")
MONTH_DAYS = phrases("""
en: How many days does {m} have? | How many days are in {m}? | Number of days in {m}?
""")
BETWEEN = phrases("""
en: How many days are there from {m} {a} to {m} {b}? | How many days are between {m} {a} and {m} {b}? |
    From {m} {a} to {m} {b}, how many days is that? | Days from {m} {a} to {m} {b}?
""")
LATER_DATE = phrases("""
en: What date is {n} days after {m} {a}? | Today is {m} {a}. What date is it in {n} days?
""")
ORDER = phrases("""
en: Which comes first, {a} or {b}? | Is {a} or {b} earlier in the year? |
    Which month is earlier: {a} or {b}?
""")

# Large unit, small unit, how many of the small make one of the large.
UNITS = [
    ("kilometers", "meters", 1000),
    ("km", "m", 1000),
    ("meters", "centimeters", 100),
    ("m", "cm", 100),
    ("centimeters", "millimeters", 10),
    ("tons", "kilograms", 1000),
    ("kilograms", "grams", 1000),
    ("kg", "g", 1000),
    ("liters", "milliliters", 1000),
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("days", "hours", 24),
    ("weeks", "days", 7),
    ("years", "months", 12),
    ("decades", "years", 10),
    ("centuries", "years", 100),
    ("feet", "inches", 12),
    ("yards", "feet", 3),
    ("dozens", "pieces", 12),
    ("dollars", "cents", 100),
]
CONVERT = phrases("""
en: How many {y} are in {n} {x}? | Convert {n} {x} to {y}. | {n} {x} in {y}? | What is {n} {x} in {y}? |
    {n} {x} = ? {y} | How many {y} are {n} {x}?
""")


def day_next_to(draw: Draw, language: str, held_out: bool) -> Turn:
    days, index, step = DAYS[language], draw.integer(0, 6), draw.pick([1, -1])
    templates = DAY_AFTER if step == 1 else DAY_BEFORE
    answer = days[(index + step) % 7]
    pair = [days[index], answer][::step]
    return Turn(draw.phrase(templates, language, d=days[index]), ", ".join(pair), answer, answer)


def day_later(draw: Draw, language: str, held_out: bool) -> Turn:
    days, index, count = DAYS[language], draw.integer(0, 6), draw.integer(2, 21)
    rest = count % 7
    steps = [f"{count} = 7*{count // 7} + {rest}" if count >= 7 else str(count), days[index]]
    steps += [f"{step} {days[(index + step) % 7]}" for step in range(1, rest + 1)]
    answer = days[(index + count) % 7]
    return Turn(draw.phrase(DAY_LATER, language, d=days[index], n=count), ", ".join(steps), answer, answer)


def month_order(draw: Draw, language: str, held_out: bool) -> Turn:
    index = draw.integer(0, 11)
    month = MONTHS[index]
    kind = draw.pick(["after", "before", "number", "name", "first"])
    if kind == "number":
        return Turn(
            draw.phrase(MONTH_NUMBER, language, m=month),
            f"{month} is month {index + 1}.",
            str(index + 1),
            str(index + 1),
        )
    if kind == "name":
        return Turn(draw.phrase(MONTH_NAME, language, n=index + 1), f"Month {index + 1} is {month}.", month, month)
    if kind == "first":
        other = draw.pick([each for each in range(12) if each != index])
        answer = MONTHS[min(index, other)]
        thought = f"{month} is month {index + 1}, {MONTHS[other]} is month {other + 1}."
        return Turn(draw.phrase(ORDER, language, a=month, b=MONTHS[other]), thought, answer, answer)
    answer = MONTHS[(index + (1 if kind == "after" else -1)) % 12]
    pair = f"{month}, {answer}" if kind == "after" else f"{answer}, {month}"
    return Turn(draw.phrase(MONTH_AFTER if kind == "after" else MONTH_BEFORE, language, m=month), pair, answer, answer)


def month_days(draw: Draw, language: str, held_out: bool) -> Turn:
    index = draw.integer(0, 11)
    month, days = MONTHS[index], MONTH_LENGTHS[index]
    answer = "29 in leap years, otherwise 28" if index == 1 else f"{days} days"
    return Turn(
        draw.phrase(MONTH_DAYS, language, m=month),
        f"{month} is month {index + 1}. It has {days} days.",
        answer,
        str(days),
    )


def days_between(draw: Draw, language: str, held_out: bool) -> Turn:
    index = draw.integer(0, 11)
    a = draw.integer(1, MONTH_LENGTHS[index] - 1)
    b = draw.integer(a + 1, MONTH_LENGTHS[index])
    month = MONTHS[index]
    if draw.chance(0.4):
        question = draw.phrase(LATER_DATE, language, m=month, a=a, n=b - a)
        return Turn(question, f"{a}+{b - a}={b}", f"{month} {b}", str(b))
    return Turn(
        draw.phrase(BETWEEN, language, m=month, a=a, b=b),
        f"{b}-{a}={b - a}",
        f"{b - a} day{'s' * (b - a > 1)}",
        str(b - a),
    )


def unit_conversion(draw: Draw, language: str, held_out: bool) -> Turn:
    large, small, factor = draw.pick(UNITS)
    count = draw.integer(2, 20) if factor % 10 == 0 else draw.integer(2, 9)
    result = count * factor
    question = draw.phrase(CONVERT, language, n=count, x=large, y=small)
    return Turn(question, f"1 = {factor} {small}, {count}*{factor}={result}", f"{result} {small}", str(result))
