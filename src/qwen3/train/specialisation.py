"""Which experts serve what: the router's choices on labelled documents, counted by label.

How much a layer's experts specialise on a label is the mutual information of expert and label over the label's entropy:
0 if every label spreads its tokens over the experts alike, 1 if the expert tells the label.

Legend: Y values of the label, L sparse layers, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from qwen3.model import CausalAttend, Qwen3
from qwen3.train.data.dataset import Dataset
from qwen3.train.data.errors import DataError

_SEQUENCE = 1024


@dataclass(frozen=True)
class Choices:
    """How often each expert was chosen for tokens of each value: counts [Y, L, E]."""

    values: tuple[str, ...]
    counts_YLE: np.ndarray

    @property
    def preference(self) -> np.ndarray:
        """[Y, L, E]: an expert's share of a value's choices over its mean share of all values'; 1 is indifferent."""
        share_YLE = self.counts_YLE / self.counts_YLE.sum(-1, keepdims=True)
        return share_YLE / np.maximum(share_YLE.mean(0), 1e-12)

    @property
    def specialisation(self) -> np.ndarray:
        """[L], with all values weighted alike, so that their sizes do not matter."""
        joint_YLE = self.counts_YLE / self.counts_YLE.sum(-1, keepdims=True) / len(self.values)
        expert_LE = joint_YLE.sum(0)
        ratio_YLE = joint_YLE * len(self.values) / np.maximum(expert_LE, 1e-12)
        information_L = (joint_YLE * np.log(np.maximum(ratio_YLE, 1e-12))).sum((0, 2))
        return information_L / np.log(len(self.values))

    @property
    def balance(self) -> np.ndarray:
        """[L]: E times the sum of the experts' squared shares, all values weighted alike: 1 is even, E all on one."""
        share_LE = (self.counts_YLE / self.counts_YLE.sum(-1, keepdims=True)).mean(0)
        return share_LE.shape[-1] * (share_LE**2).sum(-1)


@torch.no_grad()
def choices(
    model: Qwen3, dataset: Dataset, label: str, where: tuple[str, ...] = (), tokens: int = 20_000, most: int = 12
) -> Choices:
    """The choices on the first documents that pass the rules `where`, up to `tokens` of each value of `label`; of the
    values the `most` frequent ones. DataError for a label that is no word, or of which only one value is there."""
    words = dataset.manifest.labels.get(label)
    if words is None:
        raise DataError(f"{dataset.directory}: {label!r} is not a label with words; qwen3 data inspect names them")
    if not model.config.is_moe:
        raise ValueError("the model is dense: it has no experts to look at")
    column, passed = dataset.column(label), dataset.where(where)
    total = np.bincount(column[passed], dataset.lengths[passed], len(words))
    kept = [value for value in np.argsort(-total, kind="stable")[:most] if total[value]]
    if len(kept) < 2:
        raise DataError(f"{dataset.directory}: fewer than two values of {label} have documents to compare")
    layers, experts = model.config.num_sparse_layers, model.config.num_experts
    counts_YLE = np.zeros((len(kept), layers, experts), np.int64)
    for row, value in enumerate(kept):
        left = tokens
        for document in np.flatnonzero(passed & (column == value)):
            ids_T = torch.from_numpy(dataset.document(int(document)).astype(np.int64))[:left].to(model.device)
            for piece_T in ids_T.split(_SEQUENCE):
                router_logits: list[torch.Tensor] = []
                positions_T = torch.arange(len(piece_T), device=model.device)
                model(piece_T, positions_T, CausalAttend([len(piece_T)]), router_logits=router_logits)
                for layer, logits_TE in enumerate(router_logits):
                    chosen_Tk = logits_TE.topk(model.config.num_experts_per_tok).indices
                    counts_YLE[row, layer] += torch.bincount(chosen_Tk.flatten(), minlength=experts).cpu().numpy()
            left -= len(ids_T)
            if left <= 0:
                break
    return Choices(tuple(words[value] for value in kept), counts_YLE)
