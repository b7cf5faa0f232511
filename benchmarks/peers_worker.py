"""One Python peer in its own process, for `peers.py`; and the directory of random weights that some of them load.

    peers_worker.py ENGINE PATH THREADS '[["prefill", 512, 0], ["decode", 128, 4096]]'    prints tokens/s as JSON
    peers_worker.py write-directory SIZE PATH

Before tokens are drawn at a depth, a prompt of that length is read; its time does not count.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

NEEDED_MODULES = {
    "openvino": ["openvino_genai"],
    "onnxruntime": ["onnxruntime_genai", "onnx_ir", "torch", "transformers"],
    "transformers": ["transformers", "torch"],
}

Run = Callable[[int, int], tuple[float, float]]
"""Reads a prompt of the first number of tokens and draws the second number: seconds to the first token, and of the
others."""


def main() -> None:
    if sys.argv[1] == "write-directory":
        write_directory(sys.argv[2], Path(sys.argv[3]))
        return
    engine, path, threads, tests = sys.argv[1:]
    run = {"openvino": openvino, "onnxruntime": onnxruntime, "transformers": transformers}[engine](path, int(threads))
    run(16, 2)  # warms up
    speeds = []
    for phase, tokens, depth in json.loads(tests):
        if phase == "prefill":
            assert depth == 0, "the time to the first token would be the depth's, too"
            speeds.append(tokens / run(tokens, 1)[0])
        else:
            speeds.append(tokens / run(depth + 1, tokens + 1)[1])
    print(json.dumps(speeds))


_draw = random.Random(0)


def prompt(length: int) -> list[int]:
    """Another one each time: an engine that keeps what it has read must not know it already."""
    return _draw.choices(range(150_000), k=length)


def openvino(path: str, threads: int) -> Run:
    import numpy as np
    import openvino
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(path, "CPU", INFERENCE_NUM_THREADS=threads)

    def run(length: int, count: int) -> tuple[float, float]:
        settings = openvino_genai.GenerationConfig(max_new_tokens=count, ignore_eos=True, do_sample=False)
        ids = np.array([prompt(length)], dtype=np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        metrics = pipeline.generate(inputs, settings).perf_metrics
        return metrics.get_ttft().mean / 1e3, metrics.get_tpot().mean / 1e3 * (count - 1)

    return run


def onnxruntime(path: str, threads: int) -> Run:
    import onnxruntime_genai

    config = onnxruntime_genai.Config(path)
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = onnxruntime_genai.Model(config)

    def run(length: int, count: int) -> tuple[float, float]:
        settings = onnxruntime_genai.GeneratorParams(model)
        settings.set_search_options(max_length=length + count, min_length=length + count, do_sample=False)
        generator = onnxruntime_genai.Generator(model, settings)
        start = time.perf_counter()
        generator.append_tokens(prompt(length))
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(count - 1):
            generator.generate_next_token()
        return first - start, time.perf_counter() - first

    return run


def transformers(path: str, threads: int) -> Run:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)

    @torch.inference_mode()
    def run(length: int, count: int) -> tuple[float, float]:
        start = time.perf_counter()
        out = model(torch.tensor([prompt(length)]), use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1:].argmax(-1)
        first = time.perf_counter()
        for _ in range(count - 1):
            out = model(token, past_key_values=out.past_key_values, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
        return first - start, time.perf_counter() - first

    return run


def write_directory(size: str, directory: Path) -> None:
    """A bfloat16 checkpoint of random weights, and the placeholder tokenizer that exporters insist on."""
    from load import write_random
    from random_gguf import PLACEHOLDER_MERGE, placeholder_words

    from qwen3.config import ModelConfig
    from qwen3.tokenizer import Tokenizer

    directory.mkdir()
    config = ModelConfig.preset(size)
    write_random(config, directory)
    words = {word: id for id, word in enumerate(placeholder_words(config))}
    Tokenizer.from_vocab(words, [PLACEHOLDER_MERGE]).save(directory)


if __name__ == "__main__":
    main()
