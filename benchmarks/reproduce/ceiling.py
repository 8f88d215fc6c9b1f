"""The ceiling of a comparison: true scenes of the prompts in the best looks, as the VAE decodes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leaderboards.records import Sample, folder_name, short_id
from leaderboards.run_state import RunState

if TYPE_CHECKING:
    import numpy as np

    from textcraftor.micro.training.properties import Decoded

NAME = "ceiling"
"""Name of the system on boards."""


@dataclass(frozen=True)
class Ceiling:
    """Renders in place of sampling: no method generates images that are better and truer."""

    pipeline: Path
    """Folder of the pipeline whose VAE encodes and decodes the renders."""

    @staticmethod
    def run(base: RunState) -> RunState:
        """Create the run of the ceiling, which pairs with a run of the base model: same prompts and seeds."""
        settings: dict[str, Any] = {"system": NAME, "of": base.header.generation_id}
        header = replace(
            base.header,
            system=NAME,
            generation_id=short_id(settings),
            generation=settings,
            details={"name": NAME, "domain": base.header.details["domain"], "trained_on": []},
        )
        path = base.path.parent / folder_name(header.suite, NAME, header.generation_id)
        return RunState.create(path, header)

    @cached_property
    def _decoded(self) -> Decoded:
        from textcraftor.micro.training.properties import Decoded

        return Decoded.of_pipeline(self.pipeline)

    def sample(self, batch: Sequence[Sample]) -> np.ndarray:
        """Return images (B, 64, 64, 3), float32, in [0, 1]; each depends on its prompt and noise seed."""
        import numpy as np

        from rewards.world.captions import parse_prompt
        from textcraftor.micro.training.properties import BEST

        scenes = [
            parse_prompt(sample.prompt).random_scene(np.random.default_rng(sample.noise_seed))
            for sample in batch
        ]
        images = self._decoded.render([replace(scene, style=BEST) for scene in scenes])
        return images.permute(0, 2, 3, 1).numpy()

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Return which texts a text encoder would cut: none, for there is no text encoder."""
        return [False] * len(texts)
