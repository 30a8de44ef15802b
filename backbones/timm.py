"""Any model of timm that has feature maps, as a trunk."""

import difflib
import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from maskrcnn.tools.norm import count_once
from maskrcnn.tools.optional import optional
from maskrcnn.tools.weights.conversion import fit_stem
from maskrcnn.tools.weights.fitting import load_state

from .trunk import Trunk

# What makes models with fixed input sizes take any: of Swin and its kin, and of plain vision
# transformers.
ANY_SIZE = ({"strict_img_size": False}, {"dynamic_img_size": True}, {})


class Timm(Trunk):
    """The feature maps of strides 4, 8, 16 and 32 of a model of timm, or the last one of a plain
    vision transformer.

    Args:
        name: of the model in timm, such as convnext_tiny.
        norm: frozen turns the model's batch norms into fixed numbers, sync shares their statistics
            between processes, batch leaves all norms as they are.
        freeze_at: 0 trains everything, 1 freezes what comes before the stage of the first map, 2
            that stage too, and so on up to 5; of a plain transformer the embedding of patches is
            all that is frozen.
        in_channels: of the images.
        drop_path: rate of stochastic depth, for models that have it.
        checkpointing: compute activations anew for the backward pass instead of keeping them.

    Attributes:
        channels, strides: of the outputs.

    Raises:
        ValueError: timm is not installed or has no such model, the model has no maps that serve, or
            cannot do what was asked for.
    """

    def __init__(
        self,
        name: str,
        *,
        norm: str = "batch",
        freeze_at: int = 0,
        in_channels: int = 3,
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if norm not in ("frozen", "batch", "sync"):
            raise ValueError(
                f"timm/{name} has norms of its own: choose norm frozen, batch or sync, not {norm!r}"
            )
        self.name = name
        self.in_channels = in_channels
        self.asked: dict[str, Any] = {}
        if drop_path:
            self.asked["drop_path_rate"] = drop_path
        self.model: Any = create_model(name, in_channels, **self.asked)
        self.chosen = self._choose_maps()
        info = self.model.feature_info
        if hasattr(getattr(self.model, "hooks", None), "_feature_outputs"):
            self.model.hooks._feature_outputs = PerThread()
        self.channels = tuple(info.channels()[i] for i in self.chosen)
        self.strides = tuple(info.reduction()[i] for i in self.chosen)
        self.side, self.fixed_size = image_side(self.model, name)
        self.channels_last = "NHWC" in str(getattr(self.model, "output_fmt", ""))
        if checkpointing:
            self._set_checkpointing()
        if norm != "batch":
            self._convert_norms(norm)
        if checkpointing:
            count_once(self)
        self._freeze(freeze_at)

    def _choose_maps(self) -> list[int]:
        """Return the indices of the model's maps that serve, finest first. Build the model anew
        without the stages behind the last of them, which none trains."""
        info = self.model.feature_info
        strides = info.reduction()
        # of several maps of a stride the deepest
        deepest = {stride: i for i, stride in enumerate(strides)}
        chosen = [deepest[stride] for stride in (4, 8, 16, 32) if stride in deepest]
        if not chosen:
            raise ValueError(
                f"timm/{self.name} has maps of strides {strides}; a trunk needs some of 4, 8, "
                "16, 32"
            )
        if chosen[-1] == len(strides) - 1:
            return chosen
        self.asked["out_indices"] = [info.out_indices[i] for i in chosen]
        self.model = create_model(self.name, self.in_channels, **self.asked)
        return list(range(len(chosen)))

    def forward(self, images: Tensor) -> list[Tensor]:
        """[N, in_channels, H, W] -> maps [N, C, H / s, W / s], finest first"""
        try:
            maps = self.model(images)
        except (AssertionError, RuntimeError) as error:
            # Models say so in either way. But what memory or the device fails at is no matter of
            # sizes.
            right_size = not self.fixed_size or images.shape[2:] == (self.side, self.side)
            other_cause = right_size or "memory" in str(error)
            if isinstance(error, RuntimeError) and other_cause:
                raise
            multiples = "" if self.fixed_size else " or multiples of it"
            raise ValueError(
                f"timm/{self.name} takes images of {self.side} x {self.side}{multiples}, and "
                f"these are {images.shape[2]} x {images.shape[3]}: set [transform] size_divisor = "
                f"{self.side}, or choose another model ({str(error) or 'it gives no reason'})"
            ) from error
        chosen = []
        for i in self.chosen:
            x = maps[i]
            if self.channels_last:
                x = x.permute(0, 3, 1, 2)
            chosen.append(x)
        return chosen

    def published(self) -> dict[str, Tensor]:
        """timm's own weights for this trunk, downloaded if need be. Raises ValueError where they
        cannot be had."""
        try:
            model = create_model(self.name, self.in_channels, pretrained=True, **self.asked)
        except OSError as error:
            raise ValueError(
                f"the weights of timm/{self.name} cannot be had: {error}. Connect to the network "
                f"once, which puts them into the cache, or save timm.create_model({self.name!r}, "
                "pretrained=True).state_dict() elsewhere and give that file as pretrained"
            ) from error
        return model.state_dict(prefix="model.")

    def normalisation(self) -> dict[str, list[float]]:
        """mean and std that timm's weights are meant for."""
        import timm

        settings = timm.get_pretrained_cfg(self.name)
        if settings is None:
            return {}
        return {"mean": list(settings.mean), "std": list(settings.std)}

    def from_whole(self, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        """The state dict of timm's model of this name, with or without its classifier, under the
        names of this trunk.

        Raises:
            ValueError: listing what does not fit that model.
        """
        import timm

        whole = timm.create_model(self.name, in_chans=self.in_channels)
        own = whole.state_dict()
        settings = timm.get_pretrained_cfg(self.name)
        names = getattr(settings, "classifier", None) or ()
        if isinstance(names, str):
            names = (names,)
        heads = tuple(f"{name}." for name in names)
        # A classifier keeps its fresh weights, which go nowhere.
        merged = {key: value for key, value in own.items() if key.startswith(heads)}
        for key, value in fit_stem(state, own, "").items():
            if not key.startswith(heads):
                merged[key] = value
        load_state(whole, merged, source)
        # timm renames some modules where it takes maps out of a model: it does so with these
        # weights in it.
        sides = (224, 224) if settings is None else settings.input_size[1:]
        overlay = {"state_dict": whole.state_dict(), "input_size": (self.in_channels, *sides)}
        log = logging.getLogger("timm")
        level = log.level
        log.setLevel(logging.ERROR)  # it would list the classifier as unexpected
        try:
            model = create_model(
                self.name,
                self.in_channels,
                pretrained=True,
                pretrained_cfg_overlay=overlay,
                **self.asked,
            )
        finally:
            log.setLevel(level)
        return model.state_dict(prefix="model.")

    def _set_checkpointing(self) -> None:
        """Let the model compute activations anew. Raise ValueError where it cannot."""
        try:
            getattr(self.model, "model", self.model).set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:
            raise ValueError(f"timm/{self.name} has no gradient checkpointing: {error}") from error

    def _convert_norms(self, norm: str) -> None:
        from timm.layers.norm_act import convert_sync_batchnorm, freeze_batch_norm_2d

        convert = freeze_batch_norm_2d if norm == "frozen" else convert_sync_batchnorm
        self.model = convert(self.model)

    def _freeze(self, freeze_at: int) -> None:
        if not 0 <= freeze_at <= 5:
            raise ValueError(f"timm/{self.name}: freeze_at {freeze_at} must be in 0..5")
        if freeze_at == 0:
            return
        modules = [name for name, _ in self.model.named_modules()]  # in the order of computation
        end = self._frozen_end(modules, freeze_at)
        if end == 0:
            raise ValueError(
                f"timm/{self.name}: what comes before its maps is not known, so none of it can be "
                "frozen; set [backbone] freeze_at = 0"
            )
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(modules.index(name.rpartition(".")[0]) >= end)
        # With whatever lies within them: batch norms that were turned into buffers need no mode.
        frozen = []
        for part in self.model.modules():
            parameters = list(part.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                frozen.append(part)
        self.freeze(frozen)

    def _frozen_end(self, modules: list[str], freeze_at: int) -> int:
        """Return the index of the first module that trains, 0 where that is not known."""
        if len(self.chosen) == 1:
            # a plain transformer: its patches' embedding comes before all blocks
            for i, name in enumerate(modules):
                if name.endswith("blocks"):
                    return i
            return 0
        names = self.model.feature_info.module_name()
        stages = [self._places(modules, names[i]) for i in self.chosen]
        if not all(stages):
            return 0
        if freeze_at == 1:
            return stages[0][0]
        last = stages[min(freeze_at - 2, len(stages) - 1)]
        return last[-1] + 1

    @staticmethod
    def _places(modules: list[str], name: str) -> list[int]:
        """Where a module that `feature_info` names and its parts stand: timm flattens or wraps some
        of these names."""
        names = {name, name.replace(".", "_"), name.replace(".", "_", 1), f"model.{name}"}
        beginnings = tuple(f"{each}." for each in names)
        places = []
        for i, module in enumerate(modules):
            if module in names or module.startswith(beginnings):
                places.append(i)
        return places


class PerThread(dict[Any, Any]):
    """A dict of one entry a device, separate for every thread, as several threads may compute with
    the same model.

    The hooks of timm's models collect feature maps in such a dict until the model returns them.
    """

    def __getitem__(self, device: Any) -> Any:
        return self.setdefault((threading.get_ident(), device), OrderedDict())

    def __setitem__(self, device: Any, maps: Any) -> None:
        key = threading.get_ident(), device
        if maps:
            super().__setitem__(key, maps)
        else:
            self.pop(key, None)


def image_side(model: Any, name: str) -> tuple[int, bool]:
    """The side of the images that a model of timm is made for, and whether it takes no others. Of a
    transformer that takes any number of patches it is that of one."""
    import timm

    if any(getattr(part, "dynamic_img_size", False) is True for part in model.modules()):
        return max(model.feature_info.reduction()), False
    settings = timm.get_pretrained_cfg(name)
    if settings is None:
        return 224, False
    return settings.input_size[-1], bool(settings.fixed_input_size)


def create_model(
    name: str,
    in_channels: int = 3,
    **asked: Any,
) -> Any:
    """timm's model of this name, with whatever else is asked, and with its feature maps as outputs.
    Raises ValueError as `Timm` does."""
    timm = optional("timm", f"timm/{name}")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=6, cutoff=0.4)
        raise ValueError(f"timm has no model {name!r}; it has {', '.join(near) or 'others'}, ...")
    problem: Exception = ValueError("no features")
    for sizes in ANY_SIZE:
        try:
            return timm.create_model(
                name,
                features_only=True,
                in_chans=in_channels,
                **asked,
                **sizes,
            )
        except TypeError as error:  # an argument that this model does not have
            problem = error
        except (RuntimeError, AssertionError, AttributeError) as error:
            problem = error
            break
    rate = asked.get("drop_path_rate")
    how = f" with drop_path {rate}" if rate else ""
    raise ValueError(f"timm/{name} cannot serve as a trunk{how}: {problem}") from problem
