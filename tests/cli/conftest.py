"""A scripted model, and a small real checkpoint, for the commands."""

import importlib.util
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qwen3.cli import options
from qwen3.cli.app import app

FAKE_CLI = Path(__file__).with_name("fake_cli.py")


def _load_fake():
    spec = importlib.util.spec_from_file_location("fake_cli", FAKE_CLI)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fake_llm():
    return _load_fake().FakeLLM()


@pytest.fixture
def qwen3():
    """Runs the command line in this process: `qwen3("generate", "builtin", "1+1", stdin="")`."""

    def run(*arguments, stdin=""):
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)

    return run


@pytest.fixture
def fake_qwen3(qwen3, fake_llm, monkeypatch):
    """The same with the scripted model, whatever model is named."""
    monkeypatch.setattr(options, "load_llm", lambda model, **settings: fake_llm)
    return qwen3


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A directory with random weights and a tokenizer of 320 tokens."""
    from qwen3.checkpoint.load import save_model
    from qwen3.config import ModelConfig
    from qwen3.model import Qwen3
    from qwen3.train.bbpe import train_tokenizer

    tokenizer = train_tokenizer(["the cat sat on the mat and the dog sat on the log"] * 3, 320)
    config = ModelConfig(
        model_type="qwen3",
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        dtype="float32",
        eos_token_id=tokenizer.eos_id,
    )
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny"
    model = Qwen3(config)
    model.initialise(seed=0)
    save_model(model, directory, tokenizer=tokenizer, generation_config={"temperature": 0.5})
    return directory
