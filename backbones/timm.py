"""Any model of timm that has feature maps, as a trunk."""

import difflib
from typing import Any

import torch
from torch import Tensor

from .trunk import Trunk

# What makes models with fixed input sizes take any: of Swin and its kin, and of plain vision transformers.
ANY_SIZE = ({"strict_img_size": False}, {"dynamic_img_size": True}, {})


class Timm(Trunk):
    """The feature maps of strides 4, 8, 16 and 32 of a model of timm, or the last one of a plain vision transformer.

    Args:
        name: of the model in timm, such as convnext_tiny.
        norm: frozen turns the model's batch norms into fixed numbers, sync shares their statistics between processes,
            batch leaves all norms as they are.
        freeze_at: 0 trains everything, 1 freezes what comes before the stage of the first map, 2 that stage too, and so
            on up to 5; of a plain transformer the embedding of patches is all that is frozen.
        in_channels: of the images.
        drop_path: rate of stochastic depth, for models that have it.
        checkpointing: compute activations anew for the backward pass instead of keeping them.

    Attributes:
        channels, strides: of the outputs.

    Raises:
        ValueError: timm is not installed or has no such model, the model has no maps that serve, or cannot do what
            was asked for.
    """

    def __init__(self, name: str, norm: str = "batch", freeze_at: int = 0, in_channels: int = 3,
                 drop_path: float = 0.0, checkpointing: bool = False) -> None:
        super().__init__()
        if norm not in ("frozen", "batch", "sync"):
            raise ValueError(f"timm/{name} has norms of its own: choose norm frozen, batch or sync, not {norm!r}")
        self.name, self.in_channels = name, in_channels
        self.model = create_model(name, in_channels, drop_path)
        info = self.model.feature_info
        last = {stride: i for i, stride in enumerate(info.reduction())}  # of several maps of a stride the deepest
        self.chosen = [i for stride, i in sorted(last.items()) if stride in (4, 8, 16, 32)]
        if not self.chosen:
            raise ValueError(f"timm/{name} has maps of strides {info.reduction()}; a trunk needs some of 4, 8, 16, 32")
        self.channels = tuple(info.channels()[i] for i in self.chosen)
        self.strides = tuple(info.reduction()[i] for i in self.chosen)
        self.fixed_size = fixed_size(name)
        self.channels_last = "NHWC" in str(getattr(self.model, "output_fmt", ""))
        if checkpointing:
            try:
                getattr(self.model, "model", self.model).set_grad_checkpointing(True)
            except (AssertionError, AttributeError) as error:
                raise ValueError(f"timm/{name} has no gradient checkpointing: {error}") from error
        if norm != "batch":
            self._convert_norms(norm)
        self._freeze(freeze_at)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[N, in_channels, H, W] -> maps [N, C, H / s, W / s], finest first"""
        try:
            maps = self.model(images)
        except (AssertionError, RuntimeError) as error:
            if self.fixed_size is None or isinstance(error, torch.OutOfMemoryError):
                raise
            side = self.fixed_size
            raise ValueError(f"timm/{self.name} is made for images of {side} x {side}, and these are "
                             f"{images.shape[2]} x {images.shape[3]}: set [transform] size_divisor = {side}, or choose "
                             f"another model ({error})") from error
        return [maps[i].permute(0, 3, 1, 2) if self.channels_last else maps[i] for i in self.chosen]

    def published(self) -> dict[str, Tensor]:
        """timm's own weights for this trunk, downloaded if need be."""
        model = create_model(self.name, self.in_channels, pretrained=True)
        return {f"model.{key}": value for key, value in model.state_dict().items()}

    def _convert_norms(self, norm: str) -> None:
        from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d

        self.model = freeze_batch_norm_2d(self.model) if norm == "frozen" else convert_sync_batchnorm(self.model)

    def _freeze(self, freeze_at: int) -> None:
        if not 0 <= freeze_at <= 5:
            raise ValueError(f"timm/{self.name}: freeze_at {freeze_at} must be in 0..5")
        if freeze_at == 0:
            return
        modules = [name for name, _ in self.model.named_modules()]  # in the order of computation
        if len(self.chosen) == 1:  # a plain transformer: its patches' embedding comes before all blocks
            end = next((i for i, name in enumerate(modules) if name.endswith("blocks")), 0)
        else:
            stages = [self._places(modules, self.model.feature_info.module_name()[i]) for i in self.chosen]
            end = 0 if not all(stages) else stages[0][0] if freeze_at == 1 else \
                stages[min(freeze_at - 2, len(stages) - 1)][-1] + 1
        if end == 0:
            raise ValueError(f"timm/{self.name}: what comes before its maps is not known, so none of it can be frozen; "
                             f"set [backbone] freeze_at = 0")
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(modules.index(name.rpartition(".")[0]) >= end)
        # With whatever lies within them: batch norms that were turned into buffers need no mode.
        self.freeze(part for part in self.model.modules() if list(part.parameters())
                    and not any(parameter.requires_grad for parameter in part.parameters()))

    @staticmethod
    def _places(modules: list[str], name: str) -> list[int]:
        """Where a module that `feature_info` names and its parts stand: timm flattens or wraps some of these names."""
        names = {name, name.replace(".", "_"), name.replace(".", "_", 1), f"model.{name}"}
        return [i for i, module in enumerate(modules)
                if module in names or module.startswith(tuple(f"{each}." for each in names))]


def fixed_size(name: str) -> int | None:
    """The side of the images that a model of timm is made for, where it may not take others."""
    import timm

    settings = timm.get_pretrained_cfg(name)
    return settings.input_size[-1] if settings is not None and settings.fixed_input_size else None


def create_model(name: str, in_channels: int = 3, drop_path: float = 0.0, pretrained: bool = False) -> Any:
    """timm's model of this name with its feature maps as outputs. Raises ValueError as `Timm` does."""
    try:
        import timm
    except ImportError:
        raise ValueError(f"timm/{name} needs timm: pip install timm") from None
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=6, cutoff=0.4)
        raise ValueError(f"timm has no model {name!r}; it has {', '.join(near) or 'others'}, ...")
    asked: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    problem: Exception = ValueError("no features")
    for sizes in ANY_SIZE:
        try:
            return timm.create_model(name, pretrained=pretrained, features_only=True, in_chans=in_channels, **asked,
                                     **sizes)
        except TypeError as error:  # an argument that this model does not have
            problem = error
        except (RuntimeError, AssertionError, AttributeError) as error:
            problem = error
            break
    raise ValueError(f"timm/{name} cannot serve as a trunk" + (f" with drop_path {drop_path}" if drop_path else "")
                     + f": {problem}") from problem
