"""Forms of the operations for weights that are divided over a group of ranks: tensor parallelism (arXiv 1909.08053).

A divided weight is a DTensor on the group's mesh: Shard(0) holds a rank's output features (heads, feed-forward columns,
vocabulary rows), Shard(1) its input features, Replicate all. Activations are plain tensors, whole and the same on all
ranks, but for what `norm_linear` hands to the operation that follows it: this rank's features. Each rank computes its
part, and two all-reduces a layer join them, after attention and after the feed-forward. Gradients of what is whole are
whole.

Shapes as in `reference`; N, F, H, K and V count this rank's part only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from qwen3.ops import reference
from qwen3.ops.exchange import DividedExperts


def embedding(tokens_T: Tensor, weight_VD: DTensor) -> Tensor:
    """Rows [T, D]: from the rank that has them, zeros from the others."""
    own_VD = weight_VD.to_local()
    index_T, is_own_T = _own_rows(tokens_T, own_VD, weight_VD.device_mesh)
    return _summed(reference.embedding(index_T, own_VD) * is_own_T[:, None], weight_VD.device_mesh)


def rms_norm(x: Tensor, weight: DTensor, eps: float) -> Tensor:
    return reference.rms_norm(x, weight.to_local(), eps)


def qk_norm_rope(
    q_THd: Tensor,
    k_TKd: Tensor,
    q_weight_d: DTensor,
    k_weight_d: DTensor,
    eps: float,
    cos_Td: Tensor,
    sin_Td: Tensor,
) -> tuple[Tensor, Tensor]:
    """Of this rank's heads; all ranks' heads teach the scales."""
    q_scale_d, k_scale_d = (_shared(weight.to_local(), weight.device_mesh) for weight in (q_weight_d, k_weight_d))
    return reference.qk_norm_rope(q_THd, k_TKd, q_scale_d, k_scale_d, eps, cos_Td, sin_Td)


def linear(x_TD: Tensor, weight_ND: DTensor, residual_TN: Tensor | None = None) -> Tensor:
    """All output features [T, N], whichever way the weight is divided."""
    (placement,), mesh = weight_ND.placements, weight_ND.device_mesh
    if placement.is_shard(0):
        part_TN = F.linear(_shared(x_TD, mesh), weight_ND.to_local())
        y_TN = DTensor.from_local(part_TN, mesh, [Shard(1)], run_check=False).full_tensor()
    elif placement.is_shard(1):
        y_TN = _summed(F.linear(x_TD, weight_ND.to_local()), mesh)
    else:
        y_TN = F.linear(x_TD, weight_ND.to_local())
    return y_TN if residual_TN is None else residual_TN + y_TN


def norm_linear(x_TD: Tensor, norm_weight_D: DTensor, eps: float, weights: Sequence[DTensor]) -> list[Tensor]:
    """This rank's output features of each weight, all Shard(0)."""
    normed_TD = _shared(rms_norm(x_TD, norm_weight_D, eps), norm_weight_D.device_mesh)
    return [F.linear(normed_TD, weight_ND.to_local()) for weight_ND in weights]


def swiglu_linear(gate_TF: Tensor, up_TF: Tensor, down_weight_DF: DTensor, residual_TD: Tensor | None = None) -> Tensor:
    """Of this rank's feed-forward columns to all of [T, D]."""
    return linear(F.silu(gate_TF) * up_TF, down_weight_DF, residual_TD)


def moe_and_router(
    x_TD: Tensor,
    norm_weight_D: Tensor,
    eps: float,
    router_weight_ED: Tensor,
    experts: Sequence[tuple[DTensor, DTensor, DTensor]] | DividedExperts,
    top_k: int,
    renormalise: bool,
) -> tuple[Tensor, Tensor]:
    """Every rank routes; each has its columns of every expert, or with `DividedExperts` some experts, or both."""
    mesh = router_weight_ED.device_mesh if isinstance(router_weight_ED, DTensor) else None
    norm_D, router_ED = (w if mesh is None else w.to_local() for w in (norm_weight_D, router_weight_ED))
    normed_TD = reference.rms_norm(x_TD, norm_D, eps)
    router_TE, weights_Tk, chosen_Tk = reference.route(normed_TD, router_ED, top_k, renormalise)
    if mesh is not None:
        normed_TD, weights_Tk = _shared(normed_TD, mesh), _shared(weights_Tk, mesh)
    if isinstance(experts, DividedExperts):
        mixed_TD = experts.mix(normed_TD, weights_Tk, chosen_Tk)
    else:
        own = [tuple(weight.to_local() for weight in weights) for weights in experts]
        mixed_TD = reference.mix(normed_TD, weights_Tk, chosen_Tk, own)
    return x_TD + (mixed_TD if mesh is None else _summed(mixed_TD, mesh)), router_TE


def token_losses(hidden_TD: Tensor, head_weight_VD: DTensor, targets_T: Tensor, chunk: int = 1024) -> Tensor:
    """Each rank makes the logits of its rows of the vocabulary; three numbers a token are joined."""
    mesh = head_weight_VD.device_mesh

    def losses(hidden_nD: Tensor, own_VD: Tensor, targets_n: Tensor) -> Tensor:
        logits_nV = F.linear(_shared(hidden_nD, mesh), own_VD).float()
        highest_n = _summed(logits_nV.detach().amax(-1), mesh, "max")
        index_n, is_own_n = _own_rows(targets_n, own_VD, mesh)
        target_n = logits_nV.gather(1, index_n[:, None]).squeeze(1) * is_own_n
        total_n = (logits_nV - highest_n[:, None]).exp().sum(-1)
        return highest_n + _summed(total_n, mesh).log() - _summed(target_n, mesh)

    return reference.in_chunks(losses, hidden_TD, head_weight_VD.to_local(), targets_T, chunk)


def weighted_loss(hidden_TD: Tensor, head_weight_VD: DTensor, targets_T: Tensor, weights_T: Tensor) -> Tensor:
    return (token_losses(hidden_TD, head_weight_VD, targets_T) * weights_T).sum()


def _own_rows(ids_T: Tensor, own_VD: Tensor, mesh: DeviceMesh) -> tuple[Tensor, Tensor]:
    """Where the ids stand in this rank's rows of the vocabulary, 0 for those of others, and which are its own."""
    index_T = ids_T - mesh.get_local_rank() * len(own_VD)
    is_own_T = (index_T >= 0) & (index_T < len(own_VD))
    return index_T.where(is_own_T, 0), is_own_T


def _shared(x: Tensor, mesh: DeviceMesh) -> Tensor:
    """The same `x`, of which every rank will use its part: the ranks' gradients are summed."""
    return DTensor.from_local(x, mesh, [Replicate()], run_check=False).to_local(grad_placements=[Partial()])


def _summed(x: Tensor, mesh: DeviceMesh, how: str = "sum") -> Tensor:
    """The sum over the ranks, on each; the gradient of the sum is that of each addend."""
    addends = DTensor.from_local(x, mesh, [Partial(how)], run_check=False)
    return addends.redistribute(placements=[Replicate()]).to_local()
