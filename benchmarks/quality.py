"""What packed weights cost in quality: the built-in model in each format, beside float32 and beside llama.cpp.

    python benchmarks/quality.py [--llama-quantize PATH] [--examples 60]

The text is conversations that the model's training never saw. Printed per format: the mean Kullback-Leibler divergence
of the next token's distribution from the one in float32, in nats, and how often the likeliest token is the same. With
--llama-quantize, llama.cpp's tool quantizes the same weights to each of its types, this system runs those files at
their own precision, and, where the package llama-cpp-python is installed, so does llama.cpp itself: the last column is
how often the two agree on the likeliest token, where its lead in float32 is not smaller than the formats' noise.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np
import torch
from random_gguf import add_metadata

from qwen3 import LLM
from qwen3.chat import render
from qwen3.config import ModelConfig
from qwen3.model import Qwen3
from qwen3.train.curriculum import held_out_sums

FORMS = {"bf16": {"dtype": "bfloat16"}, "int8": {"weights": "int8"}, "int4": {"weights": "int4"}}
GGUF_TYPES = ("F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q4_0")
TIED = 0.05  # nats of lead of the likeliest token, below which no format's choice is counted

Logits = Callable[[list[int]], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-quantize", type=Path)
    parser.add_argument("--examples", type=int, default=60)
    options = parser.parse_args()

    exact = LLM(dtype="float32")
    texts = list(conversations(exact, options.examples))
    expected = [exact.logits(ids).numpy() for ids in texts]
    print(f"{sum(map(len, texts)):,} positions of {len(texts)} conversations")
    print(f"{'format':12} {'mean KL':>9} {'same top':>9} {'llama.cpp KL':>13} {'agreement':>10}")
    for name, form in FORMS.items():
        ours = [LLM(**form).logits(ids).numpy() for ids in texts]
        print(f"{name:12} {divergence(expected, ours):9.2e} {agreement(expected, expected, ours):9.2%}", flush=True)
    if options.llama_quantize is None:
        return
    with tempfile.TemporaryDirectory() as directory:
        full = Path(directory) / "F32.gguf"
        write_gguf(exact.model, full)
        for type in GGUF_TYPES:
            file = full.with_name(f"{type}.gguf")
            command = [options.llama_quantize, full, file, type]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            llm = LLM(file)
            ours = [llm.logits(ids).numpy() for ids in texts]
            line = f"{type:12} {divergence(expected, ours):9.2e} {agreement(expected, expected, ours):9.2%}"
            if (theirs := llama_cpp_logits(file, texts)) is not None:
                line += f" {divergence(expected, theirs):13.2e} {agreement(expected, ours, theirs):10.2%}"
            print(line, flush=True)


def conversations(llm: LLM, count: int) -> Iterator[list[int]]:
    """Token ids of whole conversations, answers included."""
    for example in held_out_sums(count, seed=1):
        rendered = render(example.messages, add_generation_prompt=False)
        yield llm.tokenizer.encode_spans(rendered.spans)


def divergence(expected: list[np.ndarray], actual: list[np.ndarray]) -> float:
    """Mean KL(expected || actual) over all positions, in nats."""
    total = 0.0
    for a, b in zip(expected, actual, strict=True):
        log_p, log_q = (torch.from_numpy(x).double().log_softmax(-1) for x in (a, b))
        total += float((log_p.exp() * (log_p - log_q)).sum())
    return total / sum(map(len, expected))


def agreement(exact: list[np.ndarray], a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """How often two choose the same token, of the positions where the choice in float32 is not tied."""
    same = []
    for logits, x, y in zip(exact, a, b, strict=True):
        first_two = np.sort(logits, axis=1)[:, -2:]
        same.append((x.argmax(1) == y.argmax(1))[first_two[:, 1] - first_two[:, 0] >= TIED])
    return float(np.concatenate(same).mean())


def write_gguf(model: Qwen3, file: Path) -> None:
    """A dense model in F32, with a vocabulary of placeholders: both engines are given ids."""
    writer = gguf.GGUFWriter(file, "qwen3")
    add_metadata(writer, model.config)
    for name, parameter in model.named_parameters():
        writer.add_tensor(gguf_name(name, model.config), parameter.detach().float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str, config: ModelConfig) -> str:
    mapped = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config.num_hidden_layers).get_name(
        name, try_suffixes=(".weight",)
    )
    assert mapped is not None
    return mapped


def llama_cpp_logits(file: Path, texts: list[list[int]]) -> list[np.ndarray] | None:
    """What llama.cpp computes from the file, [T, V] for each text; None where the package is not installed."""
    try:
        from llama_cpp import llama_cpp as api
    except ImportError:
        return None
    silence = api.llama_log_callback(lambda level, text, user_data: None)
    api.llama_log_set(silence, None)
    api.llama_backend_init()
    model = api.llama_model_load_from_file(str(file).encode(), api.llama_model_default_params())
    vocab_size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
    results = []
    for ids in texts:
        params = api.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = len(ids)
        context = api.llama_init_from_model(model, params)
        batch = api.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.logits[i] = token, i, 1
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        if api.llama_decode(context, batch):
            raise RuntimeError(f"llama.cpp cannot run {file}")
        logits = np.ctypeslib.as_array(api.llama_get_logits(context), shape=(len(ids), vocab_size)).copy()
        results.append(logits)
        api.llama_batch_free(batch)
        api.llama_free(context)
    api.llama_model_free(model)
    return results


if __name__ == "__main__":
    main()
