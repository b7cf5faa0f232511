"""The coarse operations that the model is written in.

Each name has one plain torch form in `reference`, which is its specification, and may have faster forms for some
device and weight type. Today every weight is a torch tensor and every form is the reference; `IMPLEMENTATIONS`
says so to `qwen3 doctor`. A faster form is chosen here, by device and weight type, never inside the model.
"""

from qwen3.ops.reference import (
    attention,
    embedding,
    linear,
    moe,
    norm_linear,
    qk_norm_rope,
    rms_norm,
    swiglu_linear,
    token_losses,
)

__all__ = [
    "IMPLEMENTATIONS",
    "attention",
    "embedding",
    "linear",
    "moe",
    "norm_linear",
    "qk_norm_rope",
    "rms_norm",
    "swiglu_linear",
    "token_losses",
]

IMPLEMENTATIONS: dict[str, str] = {name: "torch reference" for name in __all__ if name != "IMPLEMENTATIONS"}
"""What runs each operation, for `qwen3 doctor` and `qwen3 info`."""
