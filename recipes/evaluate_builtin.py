"""Does the built-in model obey the thinking switch, does thinking help, and does it find a key in a long text?

    python recipes/evaluate_builtin.py [MODEL] [--sums N] [--keys N] [--greedy]

Held-out sums in four ways; obeyed: with thinking on a think block with text in it, with `/no_think` an empty one, with
the hard switch off none in the answer (it is in the prompt). Right: the last number of the answer is the sum; a wrong
mode counts all the same. The sums again with thinking budgets. Keys at random depths of texts that just fit the length.
"""

import argparse
import json
from dataclasses import replace

from qwen3 import LLM
from qwen3.chat import render
from qwen3.train.curriculum import held_out_sums, passkey, score

# Name, flag after the question, hard switch.
WAYS = [("thinking", "", True), ("/think", " /think", True), ("/no_think", " /no_think", True), ("hard off", "", False)]
BUDGETS = (0, 8, 16, 32, 48, 64, 96, None)
LENGTHS = (256, 512, 1024, 2048)


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


def budgets(llm: LLM, num_sums: int, seed: int = 0) -> dict[str, float]:
    """The share of sums that are right, greedily, by how many tokens the model may think."""
    sums = held_out_sums(num_sums, seed)
    params = replace(llm.defaults(True), temperature=0.0, max_tokens=400)
    results = {}
    for budget in BUDGETS:
        given = [llm.chat(each.messages[:1], params=params, thinking_budget=budget, stream=False) for each in sums]
        right = sum(score(each, answer.content) for each, answer in zip(sums, given, strict=True))
        results["none" if budget is None else str(budget)] = right / num_sums
    return results


def passkeys(llm: LLM, num_keys: int, length: int, seed: int = 0) -> float:
    """The share of keys found, greedily, in texts with which prompt and answer take up to `length` tokens."""
    given, prompts = [], []
    for index in range(num_keys):
        words = length
        while True:
            example = passkey(words, seed, index)
            prompt = llm.tokenizer.encode_spans(render(example.messages[:1], None, True, True).spans)
            if (excess := len(prompt) + 40 - length) <= 0:
                break
            words -= max(1, excess // 2)
        given.append(example)
        prompts.append(prompt)
    params = replace(llm.defaults(True), temperature=0.0, max_tokens=40)
    completions = llm.generate(prompts, params)
    texts = [llm.tokenizer.decode(completion.token_ids).removesuffix("<|im_end|>") for completion in completions]
    return sum(score(each, text.split("</think>")[-1]) for each, text in zip(given, texts, strict=True)) / num_keys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="builtin")
    parser.add_argument("--sums", type=int, default=500)
    parser.add_argument("--keys", type=int, default=50)
    parser.add_argument("--greedy", action="store_true", help="the likeliest token always")
    options = parser.parse_args()
    llm = LLM(options.model, weights="auto")
    results = {
        "sums": evaluate(llm, options.sums, options.greedy),
        "sums right by thinking budget, greedy": budgets(llm, min(options.sums, 100)),
        "keys found by length, greedy": {
            str(length): passkeys(llm, options.keys, length) for length in LENGTHS if length <= llm.max_context
        },
    }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
