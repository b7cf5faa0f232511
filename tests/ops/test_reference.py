"""What the plain forms promise beyond torch's own functions."""

import pytest
import torch
import torch.nn.functional as F

from qwen3 import ops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_embedding_row_that_many_tokens_use_has_the_sum_of_their_gradients(dtype):
    """In steps of a bfloat16 sum, 4,000 ones would end at 256."""
    tokens = torch.tensor([3, 1, 3]).repeat(2000)
    weight = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    found = ops.embedding(tokens, weight)
    assert torch.equal(found, F.embedding(tokens, weight))
    found.backward(torch.ones_like(found))
    assert weight.grad.dtype == dtype
    expected = torch.tensor([0, 2000, 0, 4000, 0]).to(dtype)
    assert torch.equal(weight.grad, expected[:, None].expand(5, 8))


def test_only_rows_of_16_bits_need_sums_of_their_own():
    """A float64 row must not be summed in float32."""
    tokens, rows = torch.tensor([0, 0]), torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    ops.embedding(tokens, rows).backward(torch.tensor([[1.0], [1e-12]], dtype=torch.float64))
    assert rows.grad.item() == 1 + 1e-12
