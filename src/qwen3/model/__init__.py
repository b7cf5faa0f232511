"""The one definition of Qwen3, dense and mixture-of-experts, for training and serving."""

from qwen3.model.attention import Attend, CausalAttend
from qwen3.model.transformer import Qwen3

__all__ = ["Attend", "CausalAttend", "Qwen3"]
