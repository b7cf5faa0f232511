"""How the processes of a run share its work: what each of them has of the model, of the experts and of a row.

It is no part of a recipe: any layout goes on from another's checkpoint, and the numbers it leads to are the same but
for rounding. One term is an exception: the balance loss of a sparse model depends on the tokens that all processes
compute at a time, so on the number of readers (see `balance`). The module knows no tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwen3.config import ModelConfig
from qwen3.train.data.errors import DataError


@dataclass(frozen=True)
class Layout:
    """Ranks that share one thing. `tensor` neighbours share every matrix and see the same tokens, `context` groups of
    these share the rows; all others, the readers, have rows of their own. `expert` divides the experts among the ranks
    that differ in tokens."""

    tensor: int = 1
    expert: int = 1
    context: int = 1

    def readers(self, processes: int) -> int:
        """How many groups of processes read rows of their own; ValueError if the numbers do not divide."""
        if min(self.tensor, self.expert, self.context) < 1:
            raise ValueError("tensor, expert and context parallelism are 1 or more processes each")
        together = self.tensor * self.context
        if processes % together:
            raise ValueError(
                f"{processes} processes cannot be divided into groups of {together} ({self.tensor} tensor x "
                f"{self.context} context): start a multiple of {together} with torchrun"
            )
        if processes // self.tensor % self.expert:
            raise ValueError(
                f"{processes} processes, {self.tensor} for each matrix, cannot be divided into groups of {self.expert} "
                f"that share the experts: start a multiple of {self.tensor * self.expert}"
            )
        return processes // together

    def check(self, config: ModelConfig) -> None:
        """ValueError for a model that cannot be divided so."""
        if self.expert > 1 and not config.is_moe:
            raise ValueError("a dense model has no experts to divide: leave expert parallelism at 1")
        sizes = {
            "key-value heads": (config.num_key_value_heads, self.tensor),
            "feed-forward columns": (config.intermediate_size, self.tensor),
            "vocabulary rows": (config.vocab_size, self.tensor),
        }
        if config.is_moe:
            sizes["columns of an expert"] = (config.moe_intermediate_size, self.tensor)
            sizes["experts"] = (config.num_experts, self.expert)
        for name, (size, ranks) in sizes.items():
            if size % ranks:
                kind = "expert" if name == "experts" else "tensor"
                raise ValueError(f"{size:,} {name} do not divide into {ranks}: choose another {kind} parallelism")


def check_division(
    rows: int, readers: int, rows_per_batch: int, of: str = "a step", field: str = "tokens_per_step"
) -> None:
    """DataError, naming the `field` that decides it, if `rows` do not give all readers the same number of full
    batches."""
    if rows % (readers * rows_per_batch):
        raise DataError(
            f"{rows:,} rows {of} cannot be divided among {readers:,} processes in batches of {rows_per_batch} rows: "
            f"change {field}, the number of processes, or tokens_per_micro_batch"
        )
