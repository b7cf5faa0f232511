"""Global-batch load balancing of experts (arXiv 2501.11873), and the router's z-loss (arXiv 2202.08906).

The loss of a layer is E * sum_i f_i P_i: f_i is the share of all choices that fell on expert i, P_i the router's mean
probability of it. f is counted over the global batch as far as it is known, so that experts may specialise on domains:
over all ranks, by one all-reduce of a [layers, E] count a micro-batch, and over the micro-batches of the step up to now
(the paper's buffer). P is local. Balanced experts give 1, whatever the number that a token takes.

So the loss does not depend on which rank has which tokens of a micro-batch, but on which tokens all ranks have in the
first micro-batch, in the second and so on: the first ones' f is of fewer tokens. A step that is cut into other
micro-batches has another balance loss and another gradient of it, within its coefficient; one micro-batch on all ranks
is the whole global batch. Cross-entropy and z-loss are the same but for rounding, however a step is cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qwen3.config import ModelConfig
from qwen3.train.distribute import World


class LoadBalance:
    """Counts one optimizer step's choices. One object a run; `start_step` forgets the last step's."""

    def __init__(self, config: ModelConfig, world: World | None = None) -> None:
        self._world = world or World()
        self._top_k = config.num_experts_per_tok
        self._num_experts = config.num_experts
        self.counts_LE = torch.zeros(config.num_sparse_layers, config.num_experts, device=self._world.device)
        """Choices of each expert in the step up to now, on all ranks."""

    def start_step(self) -> None:
        self.counts_LE.zero_()

    def losses(self, router_logits: Sequence[Tensor], is_counted_T: Tensor) -> tuple[Tensor, Tensor]:
        """Balance loss and z-loss of a micro-batch: means over layers, sums over its counted tokens.

        Divided by the step's number of tokens they add up to the step's losses. `router_logits` are [T, E] of each
        sparse layer; padding is not counted.
        """
        logits_LTE = torch.stack([logits_TE[is_counted_T].float() for logits_TE in router_logits])
        probabilities_LTE = logits_LTE.softmax(-1)
        chosen_LTk = probabilities_LTE.detach().topk(self._top_k, dim=-1).indices
        counts_LE = torch.zeros_like(self.counts_LE)
        counts_LE.scatter_add_(1, chosen_LTk.flatten(1), torch.ones_like(chosen_LTk.flatten(1), dtype=torch.float32))
        self.counts_LE += self._world.sum(counts_LE)
        share_LE = self.counts_LE / self.counts_LE.sum(-1, keepdim=True)
        balance = self._num_experts * (share_LE * probabilities_LTE.sum(1)).sum(-1).mean()
        z = logits_LTE.logsumexp(-1).square().sum(-1).mean()
        return balance, z
