"""The complete Qwen3 system: model, tokenizer, chat format, engine, server, training and evaluation.

Importing the package is cheap: the names below load their modules, and torch with them, on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwen3.config import ModelConfig
    from qwen3.engine.llm import LLM
    from qwen3.engine.request import SamplingParams
    from qwen3.tokenizer import Tokenizer

__version__ = "0.1.0"
__all__ = ["LLM", "ModelConfig", "SamplingParams", "Tokenizer", "__version__"]

_HOMES = {
    "LLM": "qwen3.engine.llm",
    "ModelConfig": "qwen3.config",
    "SamplingParams": "qwen3.engine.request",
    "Tokenizer": "qwen3.tokenizer",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'qwen3' has no attribute {name!r}")
