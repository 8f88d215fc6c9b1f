"""Cost of training: counted work and memory."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class WorkCounts:
    """Work of one update."""

    samples: int
    skipped: int
    """Samples whose rewards or gradients were not finite."""
    scored: int
    """Images that were decoded and scored."""
    unet_rows: int
    """Rows through the UNet."""
    unet_graphs: int
    """Those of them that had a backward pass."""
    unet_saved: int
    """Rows that the prefix cache saved."""


@dataclass
class Ledger:
    """Cost of a training run so far, over all processes and starts."""

    samples: int = 0
    """Samples that were generated and scored."""
    unet_forwards: int = 0
    """Rows through the UNet, with or without a graph; a guided sample has two rows per step."""
    unet_backwards: int = 0
    """Backward passes in forward equivalents: one per row, or two with gradients of the UNet's weights."""
    unet_saved: int = 0
    """Rows through the UNet that the prefix cache made unnecessary."""
    reward_calls: int = 0
    """Images times rewards."""
    decodes: int = 0
    """Images that the VAE decoded."""
    seconds: float = 0.0
    """Wall-clock time of updates, without validation and checkpoints."""
    device: str = ""
    """Name of the device."""
    skipped: int = 0
    """Samples whose rewards or gradients were not finite."""

    @property
    def unet(self) -> int:
        """UNet work in forward equivalents."""
        return self.unet_forwards + self.unet_backwards

    @property
    def compute(self) -> int:
        """Budget on which methods are compared: UNet forward equivalents + reward calls + decodes.

        Work that the prefix cache saved is included, so that the number does not depend on the cache.
        """
        return self.unet + self.unet_saved + self.reward_calls + self.decodes

    def add(self, counts: WorkCounts, *, rewards: int, unet_trained: bool) -> None:
        """Add the work of an update.

        Args:
            counts: Counts over all processes.
            rewards: Number of rewards in the mix.
            unet_trained: Whether the UNet's weights have gradients.
        """
        self.samples += counts.samples
        self.unet_forwards += counts.unet_rows
        # a backward pass costs one forward for the inputs' gradients, and another one for the weights'
        self.unet_backwards += counts.unet_graphs * (2 if unet_trained else 1)
        self.unet_saved += counts.unet_saved
        self.reward_calls += counts.scored * rewards
        self.decodes += counts.scored
        self.skipped += counts.skipped


def peak_mib(device: str) -> float:
    """Return the peak memory so far in MiB: of a CUDA device, otherwise of this process."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
