"""Plain torch forms of the operations: the specification that every faster form is tested against.

Shapes: T tokens (queries), S tokens seen (keys), D hidden, F feed-forward, N output features, H query heads,
K key-value heads, d head_dim, V vocabulary, U different tokens, E experts. All forms are differentiable, keep the dtype
of their input and round where transformers' Qwen3 rounds, so that equal weights give equal logits in every dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint


def embedding(tokens_T: Tensor, weight_VD: Tensor) -> Tensor:
    """Rows of the embedding: [T] integer ids -> [T, D]. A row's gradient is rounded once, as a product's is."""
    # torch adds to a narrow row again and again, until it takes no more: on the CPU token after token, on CUDA, where
    # tokens are few, 32 at a time.
    if weight_VD.requires_grad and weight_VD.dtype.itemsize < 4:
        return _NarrowEmbedding.apply(tokens_T, weight_VD)
    return F.embedding(tokens_T, weight_VD)


class _NarrowEmbedding(torch.autograd.Function):
    """`F.embedding` of 16-bit rows, whose gradients are summed in float32: one such row for each different token."""

    @staticmethod
    def forward(ctx: Any, tokens_T: Tensor, weight_VD: Tensor) -> Tensor:
        ctx.save_for_backward(tokens_T)
        ctx.num_rows = len(weight_VD)
        return F.embedding(tokens_T, weight_VD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[None, Tensor]:
        (tokens_T,) = ctx.saved_tensors
        seen_U, row_T = tokens_T.unique(return_inverse=True)
        # torch's own backward, whose sums have the same order in every run on CUDA too; `index_add_` has not.
        sums_UD = torch.ops.aten.embedding_dense_backward(grad_TD.float(), row_T, len(seen_U), -1, False)
        grad_VD = grad_TD.new_zeros(ctx.num_rows, grad_TD.shape[1])
        return None, grad_VD.index_copy_(0, seen_U, sums_UD.to(grad_TD.dtype))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis (arXiv 1910.07467), statistics in float32."""
    x32 = x.float()
    x32 = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)
    return weight * x32.to(x.dtype)


def linear(x_TD: Tensor, weight_ND: Tensor, residual_TN: Tensor | None = None) -> Tensor:
    """[T, D] x [N, D] -> [T, N], added to the residual if there is one; Qwen3 has no biases."""
    y_TN = F.linear(x_TD, weight_ND)
    return y_TN if residual_TN is None else residual_TN + y_TN


def norm_linear(x_TD: Tensor, norm_weight_D: Tensor, eps: float, weights: Sequence[Tensor]) -> list[Tensor]:
    """One norm feeding several projections: [T, D] and n weights [N_i, D] -> n tensors [T, N_i]."""
    normed_TD = rms_norm(x_TD, norm_weight_D, eps)
    return [linear(normed_TD, weight_ND) for weight_ND in weights]


def swiglu_linear(gate_TF: Tensor, up_TF: Tensor, down_weight_DF: Tensor, residual_TD: Tensor | None = None) -> Tensor:
    """SwiGLU (arXiv 2002.05202) and the projection down, added to the residual: [T, F], [T, F] -> [T, D]."""
    return linear(F.silu(gate_TF) * up_TF, down_weight_DF, residual_TD)


def qk_norm_rope(
    q_THd: Tensor,
    k_TKd: Tensor,
    q_weight_d: Tensor,
    k_weight_d: Tensor,
    eps: float,
    cos_Td: Tensor,
    sin_Td: Tensor,
) -> tuple[Tensor, Tensor]:
    """QK-Norm over each head's d values, then the rotation; `cos_Td` and `sin_Td` repeat their half twice."""
    cos_T1d, sin_T1d = cos_Td.unsqueeze(1), sin_Td.unsqueeze(1)

    def rotate(x: Tensor) -> Tensor:
        low, high = x.chunk(2, dim=-1)
        return x * cos_T1d + torch.cat((-high, low), dim=-1) * sin_T1d

    return rotate(rms_norm(q_THd, q_weight_d, eps)), rotate(rms_norm(k_TKd, k_weight_d, eps))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal grouped-query attention: q [B, T, H, d], k and v [B, S, K, d], S >= T -> [B, T, H, d].

    The queries are the last T of the S positions. One sequence may come without its B axis.
    """
    if q.ndim == 3:
        # torch has its fast kernels for four axes only.
        return attention(q[None], k[None], v[None])[0]
    T, S = q.shape[1], k.shape[1]
    mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T) if 1 < T < S else None
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(*heads_first, attn_mask=mask, is_causal=1 < T == S, enable_gqa=True)
    return out.transpose(1, 2)


def moe(
    x_TD: Tensor,
    norm_weight_D: Tensor,
    eps: float,
    router_weight_ED: Tensor,
    experts: Sequence[tuple[Tensor, Tensor, Tensor]],
    top_k: int,
    renormalise: bool,
) -> Tensor:
    """The new x of `moe_and_router`."""
    return moe_and_router(x_TD, norm_weight_D, eps, router_weight_ED, experts, top_k, renormalise)[0]


def moe_and_router(
    x_TD: Tensor,
    norm_weight_D: Tensor,
    eps: float,
    router_weight_ED: Tensor,
    experts: Sequence[tuple[Tensor, Tensor, Tensor]],
    top_k: int,
    renormalise: bool,
) -> tuple[Tensor, Tensor]:
    """x and its sparse feed-forward: each token's norm goes through its `top_k` experts, weighted by the router.

    `experts` are (gate [F, D], up [F, D], down [D, F]). The router's softmax runs in float32 over all experts;
    `renormalise` makes the chosen weights sum to one (config's norm_topk_prob). The second result is the router's
    logits [T, E].
    """
    normed_TD = rms_norm(x_TD, norm_weight_D, eps)
    router_TE, weights_Tk, chosen_Tk = route(normed_TD, router_weight_ED, top_k, renormalise)
    return x_TD + mix(normed_TD, weights_Tk, chosen_Tk, experts), router_TE


def route(normed_TD: Tensor, router_weight_ED: Tensor, top_k: int, renormalise: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The router's logits [T, E], and weights and numbers of the experts that it chooses for each token, [T, k]."""
    router_TE = linear(normed_TD, router_weight_ED)
    probabilities_TE = F.softmax(router_TE, dim=-1, dtype=torch.float32)
    weights_Tk, chosen_Tk = probabilities_TE.topk(top_k, dim=-1)
    if renormalise:
        weights_Tk = weights_Tk / weights_Tk.sum(-1, keepdim=True)
    return router_TE, weights_Tk.to(normed_TD.dtype), chosen_Tk


def mix(
    normed_TD: Tensor, weights_Tk: Tensor, chosen_Tk: Tensor, experts: Sequence[tuple[Tensor, Tensor, Tensor]]
) -> Tensor:
    """The weighted sum [T, D] of the chosen experts' results."""
    out_TD = torch.zeros_like(normed_TD)
    for expert in chosen_Tk.unique().tolist():
        token, slot = (chosen_Tk == expert).nonzero(as_tuple=True)
        y_nD = feed_forward(normed_TD[token], experts[expert])
        out_TD = out_TD.index_add(0, token, y_nD * weights_Tk[token, slot, None])
    return out_TD


def feed_forward(x_nD: Tensor, weights: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """One expert (gate [F, D], up [F, D], down [D, F]): [n, D] -> [n, D]."""
    gate_weight, up_weight, down_weight = weights
    return swiglu_linear(linear(x_nD, gate_weight), linear(x_nD, up_weight), down_weight)


def token_losses(hidden_TD: Tensor, head_weight_VD: Tensor, targets_T: Tensor, chunk: int = 1024) -> Tensor:
    """Cross-entropy of each target in nats, float32 [T], straight from the hidden states.

    The [T, V] logits never exist at once: they are made `chunk` tokens at a time and made again in the backward.
    """

    def losses(hidden_nD: Tensor, head_weight_VD: Tensor, targets_n: Tensor) -> Tensor:
        return F.cross_entropy(linear(hidden_nD, head_weight_VD).float(), targets_n, reduction="none")

    return in_chunks(losses, hidden_TD, head_weight_VD, targets_T, chunk)


def in_chunks(
    losses: Callable[[Tensor, Tensor, Tensor], Tensor],
    hidden_TD: Tensor,
    head_weight_VD: Tensor,
    targets_T: Tensor,
    chunk: int,
) -> Tensor:
    """`losses(hidden, head, targets)` of `chunk` tokens at a time, [T]; what it makes on the way is made again in the
    backward. Several chunks' gradients of a 16-bit head are summed in float32, for which the head is copied."""
    dtype, shared_VD = head_weight_VD.dtype, head_weight_VD
    if dtype.itemsize < 4 and len(hidden_TD) > chunk and torch.is_grad_enabled() and head_weight_VD.requires_grad:
        # autograd sums in the dtype of what the chunks share.
        shared_VD = head_weight_VD.float()

    def of_chunk(hidden_nD: Tensor, targets_n: Tensor) -> Tensor:
        return losses(hidden_nD, shared_VD.to(dtype), targets_n)

    pieces = zip(hidden_TD.split(chunk), targets_T.split(chunk), strict=True)
    return torch.cat([checkpoint(of_chunk, h, t, use_reentrant=False) for h, t in pieces])


def weighted_loss(hidden_TD: Tensor, head_weight_VD: Tensor, targets_T: Tensor, weights_T: Tensor) -> Tensor:
    """The sum of `token_losses`, each times its constant weight: float32, without axes."""
    return (token_losses(hidden_TD, head_weight_VD, targets_T) * weights_T).sum()


def draw(logits_V: Tensor, temperature: float, top_k: int, top_p: float, min_p: float, noise: float) -> int | None:
    """The token in whose share of the probability `noise` in [0, 1) falls; None if the largest logit is not finite.

    Shares stand most likely first. A temperature of 0 takes the first; top_k of 0, top_p of 1 and min_p of 0 keep all.
    """
    if not logits_V.max().isfinite():
        return None
    if temperature == 0:
        return int(logits_V.argmax())
    probabilities, ids = candidates(logits_V / temperature, top_k, top_p, min_p)
    cumulative = probabilities.cumsum(-1)
    chosen = int(torch.searchsorted(cumulative, noise * cumulative[-1], right=True))
    # Rounding can put the last noise value at the very end of the sum: fall back to the last kept candidate.
    return int(ids[min(chosen, int(probabilities.nonzero()[-1]))])


def candidates(scaled_V: Tensor, top_k: int, top_p: float, min_p: float) -> tuple[Tensor, Tensor]:
    """What top_k, top_p and min_p leave of logits [V]: float64 probabilities and ids, most likely first.

    Probabilities of dropped candidates are 0; the others still have to be divided by their sum.
    """
    if 0 < top_k < len(scaled_V):
        kept, ids = scaled_V.topk(top_k)
    else:
        kept, ids = scaled_V.sort(descending=True, stable=True)
    probabilities = kept.double().softmax(-1)
    if top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.where(before < top_p, 0.0)
    if min_p > 0:
        probabilities = probabilities.where(probabilities >= min_p * probabilities[0], 0.0)
    return probabilities, ids


def largest(logits_V: Tensor, count: int) -> Tensor:
    """Ids of the `count` largest logits, the largest first: [V] -> int64 [count]."""
    return logits_V.topk(count).indices
