"""Arrays and tensors: one as the other, and the functions of logits, against torch's."""

import numpy as np
import pytest
import torch

from ftkit.arrays import as_array, namespace, sigmoid, softmax

pytestmark = pytest.mark.unit


def logits_of(*extremes):
    """Rows of ordinary logits, and one of extreme ones."""
    ordinary = np.random.default_rng(0).normal(0, 5, (50, len(extremes)))
    return np.concatenate([ordinary, [extremes]]).astype(np.float32)


@pytest.mark.parametrize(
    "extremes",
    [(1e4, -1e4, 0.0), (-1e4, -1e4, -1e4), (1e4, 1e4, 9999.0), (88.0, 89.0, -104.0), (3e38, 0, 0)],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_are_torchs(extremes, dtype, recwarn):
    logits = logits_of(*extremes).astype(dtype)
    tensor = torch.from_numpy(logits)
    for found, wanted in (
        (softmax(logits), tensor.softmax(-1)),
        (sigmoid(logits), tensor.sigmoid()),
        (softmax(logits[None]), tensor[None].softmax(-1)),
    ):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, wanted.numpy(), rtol=2e-6, atol=1e-30)
    assert not recwarn.list


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_tensors_of_any_floats_become_arrays_of_float32(dtype, requires_grad):
    tensor = torch.tensor([[1.5, -2.0], [0.25, 1024.0]], dtype=dtype, requires_grad=requires_grad)
    for each in (tensor, tensor.T, tensor[:, 1] * 2):
        array = as_array(each)
        assert array.dtype == np.float32
        assert array.tolist() == each.tolist()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool])
def test_tensors_of_integers_keep_their_type(dtype):
    tensor = torch.tensor([3, 0, 1]).to(dtype)
    array = as_array(tensor)
    assert torch.from_numpy(array).dtype is dtype
    assert array.tolist() == tensor.tolist()


def test_an_array_is_itself():
    array = np.arange(3)
    assert as_array(array) is array
    assert namespace(array) is np
    assert namespace(torch.from_numpy(array)) is torch
