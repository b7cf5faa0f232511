"""Hold `qwen3.grammar` against the JSON-Schema-Test-Suite: what it accepts must be valid, whatever it refuses.

    python benchmarks/json_schema_suite.py SUITE_DIR TOKENIZER

SUITE_DIR is the suite's folder of a draft, such as `json/tests/draft2020-12` in the source package of PyPI's
jsonschema; TOKENIZER is an official tokenizer. An instance counts as accepted if its tokens, as `json.dumps` writes
it, pass the schema's grammar to an end. Refusing a schema is honest; accepting an instance that is not valid is the one
fault that must not be, and the exit status is 1 for it. The suite's optional tests are left out: most assert formats,
which by the draft only annotate.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path

from qwen3.grammar import Constraint, Grammar, GrammarError, Grammars
from qwen3.tokenizer import Tokenizer


def accepts(grammar: Grammar, tokenizer: Tokenizer, instance: object) -> bool:
    matcher = grammar.matcher()
    for token in tokenizer.encode(json.dumps(instance, ensure_ascii=False), control=False):
        matcher.accept(token)
    return not matcher.error and matcher.is_complete


def count(files: list[Path], grammars: Grammars, tokenizer: Tokenizer) -> tuple[Counter, list[str], list[str]]:
    """Counts, the tests in which something invalid was accepted, and those in which something valid was refused."""
    counts: Counter = Counter()
    false_accepts, false_refusals = [], []
    for file in files:
        for group in json.loads(file.read_text("utf-8")):
            counts["schemas"] += 1
            counts["tests"] += len(group["tests"])
            try:
                grammar = grammars.compile(Constraint("json_schema", group["schema"]))
            except GrammarError:
                continue
            counts["schemas accepted"] += 1
            counts["tests of accepted schemas"] += len(group["tests"])
            num_right = 0
            for test in group["tests"]:
                is_accepted = accepts(grammar, tokenizer, test["data"])
                num_right += is_accepted == test["valid"]
                if is_accepted != test["valid"]:
                    wrong = false_accepts if is_accepted else false_refusals
                    wrong.append(f"{file.name}: {group['description']}: {test['description']}")
            counts["tests right"] += num_right
            if num_right == len(group["tests"]):
                counts["schemas fully right"] += 1
                counts["tests of schemas fully right"] += num_right
    return counts, false_accepts, false_refusals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--refusals", action="store_true", help="print what was refused though it is valid")
    arguments = parser.parse_args()
    tokenizer = Tokenizer.load(arguments.tokenizer)
    grammars = Grammars(tokenizer, 151_936, [tokenizer.eos_id, tokenizer.end_of_text_id])
    started = time.perf_counter()
    counts, accepted, refused = count(sorted(arguments.suite.glob("*.json")), grammars, tokenizer)
    for what, number in counts.items():
        print(f"{what}: {number}")
    print(f"valid, but refused: {len(refused)}")
    print(f"accepted, but not valid: {len(accepted)}")
    for line in accepted + refused * arguments.refusals:
        print(f"  {line}")
    print(f"seconds: {time.perf_counter() - started:.1f}")
    if accepted:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
