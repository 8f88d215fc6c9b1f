"""Cost of training and of sampling: counted work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from textcraftor.updates import UpdateTotals


@dataclass
class Ledger:
    """Cost of a training run so far, over all processes and starts, or of one image of a run."""

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

    @staticmethod
    def of_image(
        rows: int, *, rewards: int = 0, candidates: int = 1, updates: int = 0, checkpointed: bool = True
    ) -> Ledger:
        """Return the cost of one image of a run.

        Args:
            rows: Rows through the UNet to generate one image.
            rewards: Number of rewards that pick the image or optimise it.
            candidates: Generated images, of which the best is kept.
            updates: Gradient steps of an optimisation at test time. The images before each step and after the
                last one are scored, and the best is generated once more by the pipeline.
            checkpointed: Whether backward passes of the optimisation repeat the forward pass.
        """
        scored = updates + 1 if updates else candidates if candidates > 1 else 0
        generated = candidates + scored if updates else candidates
        return Ledger(
            samples=1,
            unet_forwards=rows * (generated + updates * checkpointed),
            unet_backwards=rows * updates,
            reward_calls=scored * rewards,
            decodes=generated,
        )

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

    @property
    def row(self) -> dict[str, float]:
        """The numbers that a line of the log shows."""
        return {
            "samples": self.samples, "skipped": self.skipped, "unet": self.unet, "compute": self.compute
        }  # fmt: skip

    def add(self, totals: UpdateTotals, *, rewards: int, unet_trained: bool) -> None:
        """Add the work of an update.

        Args:
            totals: The update, over all processes.
            rewards: Number of rewards in the mix.
            unet_trained: Whether the UNet's weights have gradients.
        """
        counts = totals.counts
        self.samples += counts.samples
        self.unet_forwards += counts.unet_rows
        # a backward pass costs one forward for the inputs' gradients, and another one for the weights'
        self.unet_backwards += counts.unet_graphs * (2 if unet_trained else 1)
        self.unet_saved += counts.unet_saved
        self.reward_calls += counts.scored * rewards
        self.decodes += counts.scored
        self.skipped += counts.skipped
