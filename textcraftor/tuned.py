"""The trained parts: copies of a pipeline's text encoders, its UNet, or adapters (LoRA) on them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tcbench.errors import ConfigError, MissingFiles
from textcraftor.diffusion.conditioning import Conditioning, replace_encoders
from textcraftor.diffusion.loading import load_parts
from textcraftor.diffusion.pipeline import ENCODERS, encoders_sha256
from textcraftor.io.export import save_adapters, save_component, save_text_encoder
from textcraftor.settings import TrainableSettings

ATTENTION = {
    "text_encoder": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "text_encoder_2": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "unet": ("to_q", "to_k", "to_v", "to_out.0"),
}
"""Layers that adapters are added to, as in TexForce and diffusers' training scripts."""


class Trainable(nn.Module):
    """What is trained, together with the frozen pipeline that generates the images.

    The trained parameters are those of the module that require gradients.

    Args:
        pipe: A diffusers pipeline; it is frozen.
        guided: Whether the pipeline samples with classifier-free guidance.
    """

    start_sha256: str | None
    """Hash of the checkpoint or language model that training starts from; None: the base model."""

    def __init__(self, pipe: Any, *, guided: bool) -> None:
        super().__init__()
        self.original, self.guided = pipe, guided  # a pipeline is no nn.Module: its parts are not registered
        for component in pipe.components.values():
            if isinstance(component, nn.Module):
                component.requires_grad_(False)

    def encode(self, texts: list[str]) -> Conditioning:
        """Encode prompts as trained, with gradients to the trained parameters where there are any."""
        raise NotImplementedError

    def encode_original(self, texts: list[str]) -> Conditioning:
        """Encode prompts with the frozen pipeline, without gradients."""
        with torch.no_grad():
            return Conditioning.encode(self.original, texts, guided=self.guided)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def load_values(self, values: Mapping[str, Tensor]) -> None:
        """Copy ``values`` into the trained parameters.

        Raises:
            KeyError: If a parameter has no value.
        """
        with torch.no_grad():
            for name, parameter in self.trained_parameters().items():
                parameter.copy_(values[name])

    def save(self, folder: Path, values: Mapping[str, Tensor]) -> None:
        """Write what was trained, with ``values`` as the trained parameters."""
        raise NotImplementedError


class TunedPipeline(Trainable):
    """A frozen pipeline, and the same pipeline with trained parts in place of its own.

    The trained parameters are in float32.

    Args:
        pipe: A diffusers pipeline; it is frozen.
        settings: Which parts are trained, and how.
        guided: Whether the pipeline samples with classifier-free guidance.
        seed: Seed of the adapters' initial values.

    Raises:
        ConfigError: If the pipeline lacks a part that is to be trained.
    """

    def __init__(self, pipe: Any, settings: TrainableSettings, *, guided: bool, seed: int = 0) -> None:
        super().__init__(pipe, guided=guided)
        self.tune_null, self.start = settings.tune_null, settings.start
        self.start_sha256 = encoders_sha256(Path(self.start)) if self.start else None
        names = _part_names(pipe, settings.parts)
        self.parts = nn.ModuleDict({name: _trained_part(pipe, name, settings, seed) for name in names})
        encoders = {name: self.parts[name] for name in self.parts if name in ENCODERS}
        self.pipeline = replace_encoders(pipe, encoders)
        """The pipeline with tuned text encoders."""

    def encode(self, texts: list[str]) -> Conditioning:
        """Encode prompts with the tuned encoders; gradients reach them."""
        c = Conditioning.encode(self.pipeline, texts, guided=self.guided)
        return c if self.tune_null or not self.guided else c.without_null_gradient()

    def load_checkpoint(self, folder: Path) -> None:
        """Load the text encoders, and the UNet if it is trained, of an earlier run's checkpoint.

        Raises:
            MissingFiles: If the checkpoint's UNet is not trained here, or a part has another architecture.
        """
        loaded = load_parts(self.original, folder, list(self.parts), exact=True)
        if (folder / "unet").is_dir() and "unet" not in self.parts:
            raise MissingFiles(
                f"{folder} has a tuned UNet, which would be lost; add unet to trainable.parts, or start from "
                "a checkpoint without one"
            )
        for name, model in loaded.items():
            _copy_weights(self.parts[name], model.state_dict())

    def save(self, folder: Path, values: Mapping[str, Tensor]) -> None:
        """Write the tuned parts as folders that transformers and diffusers read, with adapters merged.

        Adapters are also written separately, in diffusers' layout.

        Args:
            folder: Folder of the checkpoint.
            values: Values of the trained parameters by name, such as averaged ones.
        """
        adapters: dict[str, dict[str, Tensor]] = {}
        for name, part in self.parts.items():
            plain = _with_values(copy.deepcopy(part), _under(f"parts.{name}.", values))
            if getattr(plain, "peft_config", None):
                adapters[name] = _adapter_weights(plain)
            (save_component if name == "unet" else save_text_encoder)(_merged(plain), folder / name)
        # adapters of a run that started from a checkpoint do not fit the base model
        if adapters and not self.start:
            save_adapters(self.original, adapters, folder)


class WeightAverage:
    """An exponential moving average of the trained parameters; off with decay 0.

    Args:
        trainable: What is trained.
        decay: Decay per update.
    """

    def __init__(self, trainable: Trainable, decay: float) -> None:
        self._trainable, self._parameters, self._decay = trainable, trainable.trained_parameters(), decay
        self.values = {n: p.detach().clone() for n, p in self._parameters.items()} if decay else {}
        """Averaged values by parameter name; empty if averaging is off."""

    def update(self, update: int) -> None:
        """Move the average towards the parameters after update number ``update``."""
        # A smaller decay at first: the average starts at the original weights and would lag behind
        decay = min(self._decay, (1 + update) / (10 + update))
        for name, value in self.values.items():
            value.lerp_(self._parameters[name].detach(), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averaged values into the parameters within the block."""
        if not self.values:
            yield
            return
        trained = {name: self._parameters[name].detach().clone() for name in self.values}
        self._trainable.load_values(self.values)
        try:
            yield
        finally:
            self._trainable.load_values(trained)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Resume from earlier ``values``."""
        for name, value in state.items():
            self.values[name].copy_(value)


def _part_names(pipe: Any, trained: tuple[str, ...]) -> list[str]:
    missing = [name for name in trained if getattr(pipe, name, None) is None]
    if missing:
        raise ConfigError(
            f"the model has no {', '.join(missing)}; set trainable.parts to parts that it has, such as "
            "text_encoder"
        )
    # every text encoder is copied, so that a tuned one can stay frozen beside a trained UNet
    encoders = [name for name in ENCODERS if getattr(pipe, name, None) is not None]
    return encoders + [name for name in trained if name == "unet"]


def _trained_part(pipe: Any, name: str, settings: TrainableSettings, seed: int) -> Any:
    own = getattr(pipe, name)
    part = own if name == "unet" else copy.deepcopy(own)
    if name not in settings.parts:
        return part
    part = part.float()
    if not settings.lora_rank:
        return part.requires_grad_(True)
    from peft import LoraConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        part.add_adapter(
            LoraConfig(
                r=settings.lora_rank,
                lora_alpha=settings.lora_rank,
                target_modules=list(ATTENTION[name]),
                init_lora_weights="gaussian",
            )
        )
    return part


def _under(prefix: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _copy_weights(part: Any, state: Mapping[str, Tensor]) -> None:
    """Copy plain weights into a module that may have adapters around its layers."""
    targets = {name.replace(".base_layer.", "."): value for name, value in part.state_dict().items()}
    with torch.no_grad():
        for name, value in state.items():
            targets[name].copy_(value)


def _with_values(part: Any, values: Mapping[str, Tensor]) -> Any:
    with torch.no_grad():
        for name, parameter in part.named_parameters():
            if name in values:
                parameter.copy_(values[name])
    return part


def _adapter_weights(part: Any) -> dict[str, Tensor]:
    """Return the adapters' weights under peft's names."""
    from peft import get_peft_model_state_dict

    weights: dict[str, Tensor] = get_peft_model_state_dict(part)
    return weights


def _merged(part: Any) -> Any:
    """Merge adapters into the layers that they are on."""
    for owner, name, layer in list(_adapted_layers(part)):
        layer.merge()
        setattr(owner, name, layer.get_base_layer())
    return part


def _adapted_layers(part: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for owner in part.modules():
        for name, layer in owner.named_children():
            if isinstance(layer, BaseTunerLayer):
                yield owner, name, layer
