"""Looks at a model in training: its loss on given batches, and what it writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from qwen3 import ops
from qwen3.model import Attend, CausalAttend, Qwen3
from qwen3.tokenizer import Tokenizer
from qwen3.train.batch import Batch
from qwen3.train.distribute import World


@torch.no_grad()
def loss(model: Qwen3, batches: Iterable[Batch], attend: Callable[[Sequence[int]], Attend], world: World) -> float:
    """Nats per trained token over the batches of all processes, each of which must have equally many."""
    sums = torch.zeros(2, dtype=torch.float64, device=world.device)
    for batch in (each.to(world.device) for each in batches):
        hidden_TD = model(batch.tokens_T, batch.positions_T, attend(batch.lengths))
        losses = ops.token_losses(hidden_TD, model.head_weight, batch.targets_T)
        sums[0] += (losses * batch.loss_weight_T).sum()
        sums[1] += batch.loss_weight_T.sum()
    total, count = world.sum(sums).tolist()
    return total / count


@torch.no_grad()
def continuation(model: Qwen3, tokenizer: Tokenizer, world: World, prompt: str, most_tokens: int = 32) -> str:
    """The prompt and the most likely tokens after it, up to the end of the text. The prefix is read anew each time."""
    ids = tokenizer.encode(prompt)
    for _ in range(most_tokens):
        tokens_T = torch.tensor(ids, device=world.device)
        hidden_TD = model(tokens_T, torch.arange(len(ids), device=world.device), CausalAttend([len(ids)]))
        # All processes compute together, so that all must stop together.
        following = world.agreed(int(model.logits(hidden_TD[-1:]).argmax()))
        if following == tokenizer.end_of_text_id:
            break
        ids.append(following)
    return tokenizer.decode(ids)
