"""How much the images of one prompt differ: a column of a run that compares like any reward's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.columns import Column
from benchmarks.score import open_image
from leaderboards.records import RunFolder, Sample, Score, ScoreSet, short_id
from tcbench.files import locked
from tcbench.progress import Progress

if TYPE_CHECKING:
    from rewards.base import Reward

NAME = "diversity"


def measure(run: RunFolder, column: Column, device: str, progress: Progress) -> ScoreSet:
    """Score each image by 1 - its mean cosine to the others of its prompt, in the embedding of a reward's
    towers; their mean is 1 - the mean pairwise cosine. Prompts that lack an image wait for it.

    Raises ValueError for a run with one image a prompt and for a reward without an embedding.
    """
    if run.header.planned.seeds < 2:
        raise ValueError(
            f"{run.path} has one image a prompt, which has no diversity: draw more, with --seeds 4"
        )
    record = ScoreSet(
        reward=NAME,
        score_id=short_id({NAME: column.record.score_id, "seeds": run.header.planned.seeds}),
        higher_is_better=True,
        role="judge",
        family=NAME,
        details={"embedding": column.info.name, "score_id": column.record.score_id},
    )
    with locked(run.path):
        todo = _to_measure(run, record)
        count = len(run.header.planned.prompt_ids)
        progress.stage(NAME, count, count - len(todo))
        if not todo:
            return record
        reward = column.load(device)
        with run.score_appender(record) as appender:
            for samples in todo:
                appender.append(_of_prompt(run, reward, samples))
                progress.advance()
    return record


def _to_measure(run: RunFolder, record: ScoreSet) -> list[list[Sample]]:
    """Samples of the prompts that have all their images and no score yet.

    Raises ValueError for a prompt of which an image was drawn anew: its others' scores are of the old one.
    """
    planned, samples, have = run.header.planned, run.samples(), run.scores(record)
    found = []
    for prompt in planned.prompt_ids:
        own = [sample for k in range(planned.seeds) if (sample := samples.get((prompt, k))) and sample.image]
        measured = sum(sample.key in have for sample in own)
        if measured not in (0, len(own)):
            raise ValueError(
                f"an image of prompt {prompt} of {run.path} was drawn anew since its diversity was measured: "
                f"remove {run.path / 'scores' / record.folder} and measure again"
            )
        if len(own) == planned.seeds and not measured:
            found.append(own)
    return found


def _of_prompt(run: RunFolder, reward: Reward, samples: Sequence[Sample]) -> list[Score]:
    import torch

    from rewards.backbones.towers import tower_embeddings
    from rewards.base import as_batch

    images = as_batch([open_image(run, sample).convert("RGB") for sample in samples])
    with torch.inference_mode():
        embedding = tower_embeddings(reward, torch.cat(images))
    if embedding is None:
        raise ValueError(
            f"{reward.info.name} has no embedding of images; take one of the CLIP kind, such as world-siglip"
        )
    unit = torch.nn.functional.normalize(embedding.cpu().double(), dim=1)
    cosines = (unit @ unit.T).fill_diagonal_(0).sum(dim=1) / (len(samples) - 1)
    return [
        Score(*sample.key, "ok", 1 - value, image_sha256=sample.sha256)
        for sample, value in zip(samples, cosines.tolist(), strict=True)
    ]
