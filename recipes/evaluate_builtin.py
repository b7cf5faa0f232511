"""Does the built-in model obey the thinking switch, and does thinking help? 500 held-out sums in four ways.

    python recipes/evaluate_builtin.py [MODEL] [--sums N] [--greedy]

Obeyed: with thinking on a think block with text in it, with `/no_think` an empty one, with the hard switch off none in
the answer (it is in the prompt). Right: the last number of the answer is the sum; a wrong mode counts all the same.
"""

import argparse
import json
from dataclasses import replace

from qwen3 import LLM
from qwen3.chat import render
from qwen3.train.curriculum import held_out_sums, score

# Name, flag after the question, hard switch.
WAYS = [("thinking", "", True), ("/think", " /think", True), ("/no_think", " /no_think", True), ("hard off", "", False)]


def answers(llm: LLM, prompts: list[list[int]], thinking: bool, greedy: bool) -> list[str]:
    """The whole answers, think blocks included, under the model's own sampling or greedily."""
    params = replace(llm.defaults(thinking), max_tokens=400)
    if greedy:
        params = replace(params, temperature=0.0)
    each = [replace(params, seed=number) for number in range(len(prompts))]
    completions = llm.generate(prompts, each)
    return [llm.tokenizer.decode(completion.token_ids).removesuffix("<|im_end|>") for completion in completions]


def is_obeyed(answer: str, name: str) -> bool:
    """Whether the answer has the think block that the way calls for."""
    if name == "hard off":
        return "think>" not in answer
    opened, _, rest = answer.partition("<think>")
    thought, closed, content = rest.partition("</think>")
    is_wanted = bool(thought.strip()) == (name != "/no_think")
    return opened == "" and bool(closed) and is_wanted and "think>" not in content


def evaluate(llm: LLM, num_sums: int, greedy: bool, seed: int = 0) -> dict[str, dict[str, float]]:
    """Shares right and obeyed, by way; the same sums in each."""
    sums = held_out_sums(num_sums, seed)
    results = {}
    for name, flag, thinking in WAYS:
        prompts = []
        for example in sums:
            question = {"role": "user", "content": example.messages[0]["content"] + flag}
            prompts.append(llm.tokenizer.encode_spans(render([question], None, thinking, True).spans))
        given = answers(llm, prompts, thinking, greedy)
        right = sum(score(each, text.split("</think>")[-1]) for each, text in zip(sums, given, strict=True))
        obeyed = sum(is_obeyed(text, name) for text in given)
        results[name] = {"right": right / num_sums, "obeyed": obeyed / num_sums}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="builtin")
    parser.add_argument("--sums", type=int, default=500)
    parser.add_argument("--greedy", action="store_true", help="the likeliest token always")
    options = parser.parse_args()
    print(json.dumps(evaluate(LLM(options.model), options.sums, options.greedy), indent=2))


if __name__ == "__main__":
    main()
