"""Diversity: how much the images of one prompt differ, stored like the scores of a reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.resolve import ResolvedReward
from leaderboards.records import Sample, Score, ScoreSet, short_id
from leaderboards.run_state import RunState
from tcbench.errors import ConfigError, MismatchError
from tcbench.files import locked
from tcbench.progress import Progress

if TYPE_CHECKING:
    from rewards.base import Reward

_NAME = "diversity"


def measure_diversity(run: RunState, reward: ResolvedReward, device: str, progress: Progress) -> ScoreSet:
    """Score each image by 1 - its mean cosine similarity to the other images of its prompt.

    The mean over a prompt's images is then 1 - the mean pairwise cosine. Prompts with a missing image are
    skipped until it exists.

    Args:
        run: A run with at least two images per prompt.
        reward: A CLIP or SigLIP reward, whose image embeddings are compared.
        device: Where images are embedded, such as "cpu".
        progress: Receives progress, one step per prompt.

    Returns:
        Description of the scores, which are in the run folder.

    Raises:
        ConfigError: If the run has one image per prompt, or the reward has no image embedding.
        MismatchError: If an image was regenerated after its prompt was measured.
    """
    seeds = run.header.planned.seeds
    if seeds < 2:
        raise ConfigError(
            f"{run.path} has one image per prompt, so it has no diversity: generate more, with --seeds 4"
        )
    score_set = ScoreSet(
        reward=_NAME,
        # the number of seeds is part of the id: an image's score changes with the images it is compared to
        score_id=short_id({_NAME: reward.score_set.score_id, "seeds": seeds}),
        higher_is_better=True,
        role="judge",
        family=_NAME,
        details={"embedding": reward.info.name, "score_id": reward.score_set.score_id},
    )
    with locked(run.path):
        todo = _unmeasured(run, score_set)
        count = len(run.header.planned.prompt_ids)
        progress.stage(_NAME, count, count - len(todo))
        if not todo:
            return score_set
        model = reward.load(device)
        for samples in todo:
            run.append_scores(score_set, _scores_of_prompt(run, model, samples))
            progress.advance()
    return score_set


def _unmeasured(run: RunState, score_set: ScoreSet) -> list[list[Sample]]:
    """Return the samples of each prompt that has all its images and no score yet."""
    planned, scores = run.header.planned, run.scores(score_set)
    todo = []
    for prompt in planned.prompt_ids:
        keys = [(prompt, index) for index in range(planned.seeds)]
        samples = [run.samples[key] for key in keys if key in run.samples and run.samples[key].image]
        measured = sum(sample.key in scores for sample in samples)
        # a regenerated image has no score, while the scores of the others compare them to the old image
        if measured not in (0, len(samples)):
            raise MismatchError(
                f"an image of prompt {prompt} in {run.path} was regenerated after diversity was measured: "
                f"remove {run.path / 'scores' / score_set.folder} and measure again"
            )
        if len(samples) == planned.seeds and not measured:
            todo.append(samples)
    return todo


def _scores_of_prompt(run: RunState, reward: Reward, samples: Sequence[Sample]) -> list[Score]:
    import torch

    images = [run.open_image(sample) for sample in samples]
    with torch.inference_mode():
        embedding = reward.image_embeddings(images)
    if embedding is None:
        raise ConfigError(
            f"{reward.info.name} has no image embedding; use a CLIP or SigLIP reward, such as world-siglip"
        )
    unit = torch.nn.functional.normalize(embedding.cpu().double(), dim=1)
    # the mean over the other images: without the image itself, whose cosine is 1
    cosines = (unit @ unit.T).fill_diagonal_(0).sum(dim=1) / (len(samples) - 1)
    return [
        Score(*sample.key, "ok", 1 - value, image_sha256=sample.sha256)
        for sample, value in zip(samples, cosines.tolist(), strict=True)
    ]
