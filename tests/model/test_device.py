"""Devices and precisions: what each can do, and a clear refusal where it cannot."""

from pathlib import Path

import pytest
import torch

from ftkit.errors import SettingError
from ftkit.model import device as rooms
from ftkit.model.device import autocast_dtype, computes_in_bf16, default_device, precision_name

pytestmark = pytest.mark.unit
CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.fixture
def bf16(monkeypatch):
    def set_to(answer: bool) -> None:
        monkeypatch.setattr(rooms, "computes_in_bf16", lambda device: answer)

    return set_to


@pytest.mark.parametrize(
    ("precision", "device", "has_bf16", "expected"),
    [
        ("fp32", CPU, True, None),
        ("fp32", CUDA, True, None),
        ("bf16", CPU, True, torch.bfloat16),
        ("bf16", CUDA, True, torch.bfloat16),
        ("fp16", CUDA, True, torch.float16),
        ("fp16", CUDA, False, torch.float16),
        ("auto", CPU, True, torch.bfloat16),
        ("auto", CPU, False, None),
        ("auto", CUDA, True, torch.bfloat16),
        ("auto", CUDA, False, torch.float16),
        ("auto", MPS, False, None),
    ],
)
def test_autocast_dtype(bf16, precision, device, has_bf16, expected):
    bf16(has_bf16)
    assert autocast_dtype(precision, device) is expected


@pytest.mark.parametrize(
    ("precision", "device", "message"),
    [
        ("bf16", CPU, "cpu device has no bf16 instructions"),
        ("bf16", CUDA, "cuda device has no bf16 instructions"),
        ("fp16", CPU, "fp16 needs a CUDA GPU, and the model is on the cpu device"),
        ("fp16", MPS, "on the mps device"),
        ("fp8", CPU, "precision is 'fp8'.*auto, fp32, fp16, bf16"),
    ],
)
def test_what_a_device_cannot_do_is_refused(bf16, precision, device, message):
    bf16(False)
    with pytest.raises(SettingError, match=message):
        autocast_dtype(precision, device)


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "fpu avx2 avx512_bf16", True),
        ("x86_64", "fpu amx_bf16 amx_tile", True),
        ("x86_64", "fpu avx512f bf16", False),
        ("x86_64", "fpu avx512_bf16x", False),
        ("aarch64", "fp asimd bf16", True),
        ("arm64", "fp asimd", False),
    ],
)
def test_bf16_of_a_cpu_is_read_off_its_flags(monkeypatch, tmp_path, machine, flags, expected):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: spectre\n")
    monkeypatch.setattr(rooms, "Path", lambda name: cpuinfo)
    monkeypatch.setattr(rooms.platform, "machine", lambda: machine)
    assert computes_in_bf16(CPU) is expected


def test_a_cpu_that_does_not_tell_has_no_bf16(monkeypatch, tmp_path):
    monkeypatch.setattr(rooms, "Path", lambda name: Path(tmp_path, "nothing"))
    assert computes_in_bf16(CPU) is False


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True)])
def test_bf16_of_a_gpu_goes_by_its_generation(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert computes_in_bf16(CUDA) is expected


def test_no_bf16_on_other_devices():
    assert computes_in_bf16(MPS) is False


def test_default_device(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert default_device() == CPU
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: CUDA)
    assert default_device() == CUDA


@pytest.mark.parametrize(
    ("dtype", "name"), [(None, "fp32"), (torch.float16, "fp16"), (torch.bfloat16, "bf16")]
)
def test_precision_name(dtype, name):
    assert precision_name(dtype) == name
