"""The device that a model computes on."""

import torch


def choose_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one; otherwise the device of that name. Raises ValueError for
    one not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device = {name!r}; choose auto, cpu, cuda, cuda:1 or mps") from None
    if device.type not in ("cpu", "cuda", "mps") or (
        device.type == "mps" and not torch.backends.mps.is_available()
    ):
        raise ValueError(
            f"device = {name!r} is not there; choose auto, cpu, cuda, cuda:1 or (on a Mac) mps"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device = {name!r}, but this machine shows {torch.cuda.device_count()} CUDA devices"
        )
    return device
