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
    known = device.type in ("cpu", "cuda", "mps")
    lacks_mps = device.type == "mps" and not torch.backends.mps.is_available()
    if not known or lacks_mps:
        raise ValueError(
            f"device = {name!r} is not there; choose auto, cpu, cuda, cuda:1 or (on a Mac) mps"
        )
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ValueError(f"device = {name!r}, but this machine shows {count} CUDA devices")
    return device
