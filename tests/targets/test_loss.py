"""The loss counts the targets that are there, and no others."""

import pytest
import torch
import torch.nn.functional as F

from ftkit.targets.loss import token_loss

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_over_tokens_that_count(smoothing):
    logits = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1, 2, 3, 4], [5, -100, -100, -100], [-100] * 4])
    found = token_loss(logits, targets, "mean", label_smoothing=smoothing)
    counted = targets != -100
    expected = F.cross_entropy(logits[counted], targets[counted], label_smoothing=smoothing)
    torch.testing.assert_close(found, expected)
    rows = token_loss(logits, targets, "none", label_smoothing=smoothing)
    torch.testing.assert_close(
        rows[0], F.cross_entropy(logits[0], targets[0], label_smoothing=smoothing)
    )
    torch.testing.assert_close((rows * torch.tensor([4, 1, 0])).sum() / 5, expected)
    assert rows[2] == 0


def test_the_loss_of_nothing_is_nothing():
    logits = torch.zeros(1, 2, 3, requires_grad=True)
    loss = token_loss(logits, torch.full((1, 2), -100), "mean", label_smoothing=0.1)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()
