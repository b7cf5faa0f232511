"""Fixtures and settings that every test shares."""

import os
from pathlib import Path

# Before torch is imported: pytest-xdist runs a worker per core, and each worker's torch would start a thread
# per core besides.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

SHARED = Path(__file__).parents[2] / "shared"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder beside the checkout with official files (tokenizer, template, texts) too large to keep here."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the official files in {SHARED}, which is not part of the repository")
    return SHARED


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory of a tiny model with random weights and a small tokenizer of its own."""
    from qwen3.checkpoint.load import save_model
    from qwen3.config import ModelConfig
    from qwen3.model import Qwen3
    from qwen3.train import bbpe

    tokenizer = bbpe.train_tokenizer(["The quick brown fox jumps over the lazy dog."], 320)
    config = ModelConfig(
        model_type="qwen3",
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        dtype="float32",
        eos_token_id=(tokenizer.id("<|im_end|>"), tokenizer.id("<|endoftext|>")),
    )
    model = Qwen3(config)
    model.initialise(seed=1)
    for parameter in model.parameters():
        # Larger than fresh weights, so that answers vary.
        parameter.data *= 10 if parameter.ndim > 1 else 1
    directory = tmp_path_factory.mktemp("tiny")
    save_model(model, directory, tokenizer=tokenizer)
    return directory
