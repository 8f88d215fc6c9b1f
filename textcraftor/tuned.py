"""What is trained: copies of a pipeline's text encoders, its UNet, or adapters (LoRA) in them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tcbench.errors import ConfigError
from textcraftor.config import TrainConfig
from textcraftor.diffusion.conditioning import Conditioning, encode_prompts, replace_encoders
from textcraftor.diffusion.pipeline import ENCODERS
from textcraftor.io.export import save_adapters, save_text_encoder, save_unet

ATTENTION = {
    "text_encoder": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "text_encoder_2": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "unet": ("to_q", "to_k", "to_v", "to_out.0"),
}
"""What adapters are put on (TexForce and diffusers' own scripts do so)."""


class Trainee(Protocol):
    """Something that is trained, and the frozen pipeline that it changes the drawings of."""

    @property
    def original(self) -> Any:
        """The pipeline as it was."""

    def encode(self, texts: list[str]) -> Conditioning:
        """The conditioning that training brings about."""

    def encode_original(self, texts: list[str]) -> Conditioning:
        """The pipeline's own, without a graph."""

    def trained(self) -> dict[str, nn.Parameter]:
        """Trained parameters by name."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put values into them. Raises KeyError for one that is not there."""

    def start_from(self, folder: Path) -> None:
        """Take over what an earlier run's checkpoint has."""

    def save(self, folder: Path, values: Mapping[str, Tensor] | None = None) -> None:
        """Write what was trained, with ``values`` in place of the trained parameters."""


class Tuned(nn.Module):
    """A frozen pipeline, and beside it the same one with what is tuned in place of its own.

    Its parameters that need gradients are the trained ones, in float32; everything else is frozen.
    """

    def __init__(self, pipe: Any, config: TrainConfig, guided: bool) -> None:
        super().__init__()
        self.guided, self.tune_null, self.started = guided, config.tune_null, bool(config.start)
        for component in pipe.components.values():
            if isinstance(component, nn.Module):
                component.requires_grad_(False)
        self.parts = nn.ModuleDict(
            {name: self._part(pipe, name, config) for name in self._names(pipe, config)}
        )
        # plain attributes of an object that is no module: frozen parts are no part of the state
        self._frozen = _Frozen(
            pipe, replace_encoders(pipe, {n: self.parts[n] for n in self.parts if n in ENCODERS})
        )

    @property
    def original(self) -> Any:
        """The pipeline as it was."""
        return self._frozen.original

    @property
    def pipeline(self) -> Any:
        """The pipeline with tuned text encoders."""
        return self._frozen.tuned

    @staticmethod
    def _names(pipe: Any, config: TrainConfig) -> list[str]:
        """Text encoders always have a copy, so that a tuned one can be kept frozen beside a trained UNet."""
        missing = [name for name in config.trains if getattr(pipe, name, None) is None]
        if missing:
            raise ConfigError(f"{config.model} has no {', '.join(missing)} to train; choose from what it has")
        return [name for name in ENCODERS if getattr(pipe, name, None) is not None] + [
            name for name in config.trains if name == "unet"
        ]

    @staticmethod
    def _part(pipe: Any, name: str, config: TrainConfig) -> Any:
        own = getattr(pipe, name)
        part = own if name == "unet" else copy.deepcopy(own)
        if name not in config.trains:
            return part
        part = part.float()
        if not config.lora_rank:
            return part.requires_grad_(True)
        from peft import LoraConfig

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            part.add_adapter(
                LoraConfig(
                    r=config.lora_rank,
                    lora_alpha=config.lora_rank,
                    target_modules=list(ATTENTION[name]),
                    init_lora_weights="gaussian",
                )
            )
        return part

    def encode(self, texts: list[str]) -> Conditioning:
        """The tuned encoders' conditioning, with its graph."""
        found = encode_prompts(self.pipeline, texts, guided=self.guided)
        return found if self.tune_null or not self.guided else found.without_null_gradient()

    def encode_original(self, texts: list[str]) -> Conditioning:
        """The original encoders', without one."""
        with torch.no_grad():
            return encode_prompts(self.original, texts, guided=self.guided)

    def trained(self) -> dict[str, nn.Parameter]:
        """Trained parameters by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put values into the trained parameters. Raises KeyError for one that is not there."""
        with torch.no_grad():
            for name, parameter in self.trained().items():
                parameter.copy_(state[name])

    def start_from(self, folder: Path) -> None:
        """Take over the text encoders, and the UNet if it is trained, of a checkpoint's folder."""
        from tcbench.errors import MissingFiles
        from textcraftor.diffusion.pipeline import load_encoders

        found = load_encoders(self.original, folder)
        if (folder / "unet").is_dir() and "unet" not in self.parts:
            raise MissingFiles(
                f"{folder} has a tuned UNet, which would be lost: add unet to trains, or start from a "
                "checkpoint without one"
            )
        for name in self.parts:
            if name in ENCODERS:
                _adopt(self.parts[name], getattr(found, name).state_dict())
            elif (folder / name).is_dir():
                own: Any = self.parts[name]
                other = type(own).from_pretrained(folder / name, local_files_only=True)
                if other.config.block_out_channels != own.config.block_out_channels:
                    raise MissingFiles(f"{folder / name} is a UNet of another architecture")
                _adopt(own, other.state_dict())

    def save(self, folder: Path, values: Mapping[str, Tensor] | None = None) -> None:
        """Write what was tuned as folders that transformers and diffusers read, adapters merged.

        ``values`` take the place of the trained parameters, such as averaged ones. Adapters are written
        beside them too, in diffusers' layout.
        """
        adapters: dict[str, dict[str, Tensor]] = {}
        for name, part in self.parts.items():
            plain = _valued(copy.deepcopy(part), _own(values or {}, f"parts.{name}."))
            if getattr(plain, "peft_config", None):
                adapters[name] = _adapter(plain)
            (save_unet if name == "unet" else save_text_encoder)(_merged(plain), folder / name)
        if adapters and not self.started:  # they would be of that start, not of the base model
            save_adapters(self.original, adapters, folder)


class _Frozen:
    def __init__(self, original: Any, tuned: Any) -> None:
        self.original, self.tuned = original, tuned


def _own(values: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _adopt(part: Any, state: Mapping[str, Tensor]) -> None:
    """Copy plain weights into a module that may have adapters around its layers."""
    targets = {name.replace(".base_layer.", "."): value for name, value in part.state_dict().items()}
    with torch.no_grad():
        for name, value in state.items():
            targets[name].copy_(value)


def _valued(part: Any, values: Mapping[str, Tensor]) -> Any:
    """``part`` with ``values`` in it."""
    with torch.no_grad():
        for name, parameter in part.named_parameters():
            if name in values:
                parameter.copy_(values[name])
    return part


def _adapter(part: Any) -> dict[str, Tensor]:
    """The adapters' weights, named as peft names them."""
    from peft import get_peft_model_state_dict

    found: dict[str, Tensor] = get_peft_model_state_dict(part)
    return found


def _merged(part: Any) -> Any:
    """``part`` with adapters merged into the layers they are on."""
    for owner, name, layer in list(_adapted(part)):
        layer.merge()
        setattr(owner, name, layer.get_base_layer())
    return part


def _adapted(part: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for owner in part.modules():
        for name, layer in owner.named_children():
            if isinstance(layer, BaseTunerLayer):
                yield owner, name, layer
