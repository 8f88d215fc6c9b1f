"""What training costs: counted work, and memory."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass


@dataclass
class Ledger:
    """What training has cost so far, over all processes and starts."""

    samples: int = 0
    unet_forwards: int = 0
    """Rows through the UNet without a gradient to follow, or with."""
    unet_backwards: int = 0
    """In forward equivalents: one a row for gradients at the inputs, two where weights have them too."""
    unet_saved: int = 0
    """Rows of forward passes that the prefix cache had."""
    reward_calls: int = 0
    decodes: int = 0
    seconds: float = 0.0
    device: str = ""
    skipped: int = 0

    @property
    def unet(self) -> int:
        """UNet-forward equivalents."""
        return self.unet_forwards + self.unet_backwards

    @property
    def compute(self) -> int:
        """What methods are given alike, whatever a cache held: UNet-forward equivalents, reward calls and
        decodes, each counted as one.
        """
        return self.unet + self.unet_saved + self.reward_calls + self.decodes


def peak_mib(device: str) -> float:
    """Most memory used so far: of the device, or of this process on the CPU."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
