"""Hold `qwen3.grammar` against the JSON-Schema-Test-Suite: what it accepts must be valid, whatever it refuses.

    python benchmarks/json_schema_suite.py SUITE_DIR TOKENIZER

SUITE_DIR is the suite's folder of a draft, `tests/draft2020-12` of its repository or `json/tests/draft2020-12` in the
source package of PyPI's jsonschema, which is older and has fewer tests; TOKENIZER is an official tokenizer. An instance
counts as accepted if its tokens, as `json.dumps` writes it, pass the schema's grammar to an end. Refusing a schema is
honest; accepting an instance that is not valid is the one fault that must not be, and the exit status is 1 for it.

Each test counts by itself, as in llguidance's own runner (`json_schema_test_suite` in its repository, pinned to the
suite's commit 78048ead, with 580 of 1,290 right): right if the schema is taken and the verdict is the test's. The
control is llguidance as it comes, in the same run. The stricter count is of tests whose schema has all its tests right.
The suite's optional tests are left out: most assert formats, which by the draft only annotate.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from llguidance import LLMatcher

from qwen3.grammar import Constraint, GrammarError, Grammars
from qwen3.tokenizer import Tokenizer

Accepts = Callable[[list[int]], bool]


class Speller:
    """JSON as ids that stand for exactly its bytes: the tokenizer alone would bring it to NFC."""

    def __init__(self, tokenizer: Tokenizer, num_ids: int) -> None:
        self._tokenizer = tokenizer
        pieces = ((tokenizer.token_bytes(id), id) for id in range(num_ids))
        self._id_of_byte = {piece[0]: id for piece, id in pieces if len(piece) == 1}

    def __call__(self, instance: object) -> list[int]:
        text = json.dumps(instance, ensure_ascii=False)
        ids = self._tokenizer.encode(text, control=False)
        return ids if self._tokenizer.decode(ids) == text else [self._id_of_byte[byte] for byte in text.encode()]


def ours(grammars: Grammars, schema: object) -> Accepts | None:
    """What accepts instances of the schema; None where it is refused."""
    try:
        grammar = grammars.compile(Constraint("json_schema", schema))
    except GrammarError:
        return None

    def accepts(ids: list[int]) -> bool:
        matcher = grammar.matcher()
        for token in ids:
            matcher.accept(token)
        return not matcher.error and matcher.is_complete

    return accepts


def llguidance(grammars: Grammars, schema: object) -> Accepts | None:
    """The same by llguidance with its own defaults."""
    source = json.dumps({"grammars": [{"lark_grammar": f"start: %json {json.dumps(schema)}"}]})
    compiled = LLMatcher(grammars._ll_tokenizer, source, log_level=0)
    if compiled.is_error():
        return None

    def accepts(ids: list[int]) -> bool:
        matcher = compiled.deep_copy()
        return all(matcher.consume_token(token) for token in ids) and matcher.is_accepting()

    return accepts


def count(
    files: list[Path], accepts_of: Callable[[object], Accepts | None], spell: Speller
) -> tuple[Counter, list[str], list[str]]:
    """Counts, the tests in which something invalid was accepted, and those in which something valid was refused."""
    counts: Counter = Counter()
    false_accepts, false_refusals = [], []
    for file in files:
        for group in json.loads(file.read_text("utf-8")):
            counts["schemas"] += 1
            counts["tests"] += len(group["tests"])
            accepts = accepts_of(group["schema"])
            if accepts is None:
                continue
            counts["schemas taken"] += 1
            counts["their tests"] += len(group["tests"])
            num_right = 0
            for test in group["tests"]:
                is_accepted = accepts(spell(test["data"]))
                num_right += is_accepted == test["valid"]
                if is_accepted != test["valid"]:
                    wrong = false_accepts if is_accepted else false_refusals
                    wrong.append(f"{file.name}: {group['description']}: {test['description']}")
            counts["tests right"] += num_right
            if num_right == len(group["tests"]):
                counts["schemas fully right"] += 1
                counts["tests of schemas fully right"] += num_right
    counts["valid, but refused"] = len(false_refusals)
    counts["accepted, but not valid"] = len(false_accepts)
    return counts, false_accepts, false_refusals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--refusals", action="store_true", help="print what was refused though it is valid")
    arguments = parser.parse_args()
    tokenizer = Tokenizer.load(arguments.tokenizer)
    grammars = Grammars(tokenizer, 151_936, [tokenizer.eos_id, tokenizer.end_of_text_id])
    files, spell = sorted(arguments.suite.glob("*.json")), Speller(tokenizer, 151_936)
    started = time.perf_counter()
    counts, accepted, refused = count(files, lambda schema: ours(grammars, schema), spell)
    control, _, _ = count(files, lambda schema: llguidance(grammars, schema), spell)
    print(f"{'':30} {'qwen3':>10} {'llguidance':>10}")
    for what, number in counts.items():
        print(f"{what:30} {number:10,} {control[what]:10,}")
    for line in accepted + refused * arguments.refusals:
        print(f"  {line}")
    print(f"seconds: {time.perf_counter() - started:.1f}")
    if accepted:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
