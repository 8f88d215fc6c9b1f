"""Diversity of a prompt's images as a column."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

from benchmarks.diversity import measure_diversity
from benchmarks.resolve import resolve_rewards
from leaderboards.records import Sample, ScoreSet
from leaderboards.run_state import RunState
from tcbench.progress import Silent

MakeRun = Callable[..., RunState]

BRIGHT = ScoreSet("bright", "b" * 12, higher_is_better=True, role="trainable", family="toy")


@pytest.fixture
def run(make_run: MakeRun) -> RunState:
    """Three prompts of three images: all alike, all different, and one image alone."""
    run = make_run("base", (BRIGHT, [[1.0] * 3] * 3))
    samples = []
    for key, sample in sorted(run.samples.items()):
        if key in ((2, 1), (2, 2)):
            samples.append(Sample(*key, "a", "a", "animals", 7, reason="not finite"))
            continue
        seed = 0 if key[0] == 0 else key[1]
        pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        path = run.image_path(sample)
        Image.fromarray(pixels).resize((64, 64)).save(path)
        samples.append(
            Sample(
                *key, "a", "a", "animals", 7, image=sample.image, sha256=sha256(path.read_bytes()).hexdigest()
            )
        )
    for file in (run.path / "samples").glob("*.jsonl"):
        file.unlink()
    run = RunState(run.path)
    run.append_samples(samples)
    return run


def test_diversity_is_the_mean_pairwise_distance(run: RunState) -> None:
    (column,) = resolve_rewards(["world-siglip"])
    record = measure_diversity(run, column, "cpu", Silent())
    scores = run.scores(record)
    alike = [scores[0, seed].score for seed in range(3)]
    different = [scores[1, seed].score for seed in range(3)]
    assert alike == pytest.approx([0] * 3, abs=1e-6)
    assert min(value for value in different if value is not None) > 0.01
    assert (2, 0) not in scores  # it waits for its other images

    reward = column.load("cpu")
    images = [Image.open(run.image_path(run.samples[1, seed])) for seed in range(3)]
    embedding = reward.image_embeddings(images)
    assert embedding is not None
    pairs = [float(embedding[i] @ embedding[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert np.mean(different) == pytest.approx(1 - np.mean(pairs), abs=1e-5)
    before = {file: file.read_bytes() for file in run.path.rglob("*.jsonl")}
    measure_diversity(run, column, "cpu", Silent())
    assert before == {file: file.read_bytes() for file in run.path.rglob("*.jsonl")}


def test_a_regenerated_image_makes_other_scores_stale(run: RunState) -> None:
    (column,) = resolve_rewards(["world-siglip"])
    measure_diversity(run, column, "cpu", Silent())
    old = run.samples[1, 0]
    Image.new("RGB", (64, 64)).save(run.image_path(old))
    digest = sha256(run.image_path(old).read_bytes()).hexdigest()
    run.append_samples([Sample(1, 0, "a", "a", "animals", 7, image=old.image, sha256=digest)])
    with pytest.raises(ValueError, match=r"an image of prompt 1 .* was regenerated .*: remove"):
        measure_diversity(run, column, "cpu", Silent())


def test_one_seed_or_no_embedding_is_an_error(run: RunState, make_run: MakeRun) -> None:
    single = make_run("single", (BRIGHT, [[1.0]]))
    (siglip, rule) = resolve_rewards(["world-siglip", "world-rule"])
    with pytest.raises(ValueError, match="one image per prompt"):
        measure_diversity(single, siglip, "cpu", Silent())
    with pytest.raises(ValueError, match="world-rule has no image embedding"):
        measure_diversity(run, rule, "cpu", Silent())
