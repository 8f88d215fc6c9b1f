"""The report on the embedded world: measures all its numbers; writes report.md, its images and card.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from leaderboards.markdown import markdown_table
from rewards.base import Reward
from rewards.preprocess import to_bytes
from rewards.registry import load as load_reward
from rewards.world.training import data, evaluate
from textcraftor.micro.training.card import WorldCard
from textcraftor.micro.training.measure import PromptImages, ValidationSamples
from textcraftor.micro.training.properties import MIDDLING, Decoded, true_scenes
from textcraftor.micro.training.stages import STAGES

_GUIDANCES = (2.0, 3.0, 5.0)
_COUNT = 500
"""Rendered scenes that each accuracy is measured on."""

_CURVES = 5
"""Loss curves side by side."""

_FORMER_SAMPLES = "samples-first-edition.png"
"""Samples of an earlier world; the report shows them if its folder has them."""

_Note = Callable[[str], None]


def write_world_report(
    folder: Path, docs: Path, rewards: Path, pipeline: Path, guidance: float, words: str, note: _Note = print
) -> None:
    """Measure the installed world.

    Args:
        folder: Folder of the build, for the training logs.
        docs: Folder of the report.
        rewards: Folder of the trained rewards.
        pipeline: Folder of the micro pipeline.
        guidance: Guidance scale with and without style words.
        words: Style words that are appended to prompts.
        note: Receives a line about each part.
    """
    docs.mkdir(parents=True, exist_ok=True)
    samples = ValidationSamples(pipeline)
    sections = [
        "# The embedded world, measured",
        "Written by `tcbench world report`, which measures every number. The properties that a comparison of "
        "methods needs are in the [world card](card.md). Accuracies are measured on new "
        f"rendered scenes ({_COUNT} each) that no model was trained on; the scenes are the ground truth.",
    ]
    parts: Mapping[str, Callable[[], Iterable[str]]] = {
        "Training": lambda: _training(folder, docs, rewards, pipeline),
        "Oracle": _oracle,
        "Reward models": _reward_models,
        "Base pipeline": lambda: _base_pipeline(docs, samples, guidance, words, note),
    }
    for title, measure in parts.items():
        note(f"measuring: {title.lower()}")
        sections += [f"## {title}", *measure()]
    (docs / "report.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    WorldCard(folder, samples, guidance, words, note).write(docs / "card.md")


def _training(folder: Path, docs: Path, rewards: Path, pipeline: Path) -> Iterable[str]:
    """Steps, minutes and final loss of every training log, the loss curves, and the shipped sizes."""
    logs = {path.stem: _rows(path) for path in sorted(folder.glob("*.jsonl"))}
    table = [
        (
            name,
            rows[-1]["step"] + 1,
            f"{(rows[-1]['step'] + 1) * _pace(rows) / 60:.1f}",
            f"{_final_loss(rows):.4f}",
        )
        for name, rows in logs.items()
    ]
    total = sum(float(row[2]) for row in table)
    yield _table(("training plan", "steps", "core-minutes", "loss at the end"), table)
    yield f"{total:.0f} core-minutes in all, with one thread per model, in {len(STAGES)} stages."
    yield "![Loss curves](curves.png)"
    _curves(logs, docs / "curves.png")
    sizes = {name: _megabytes(rewards / name) for name in sorted(p.name for p in rewards.iterdir())}
    sizes |= {
        f"pipeline/{part.name}": _megabytes(part) for part in sorted(pipeline.iterdir()) if part.is_dir()
    }
    rewriters = pipeline.parent / "rewriters"
    sizes |= {f"rewriters/{part.name}": _megabytes(part) for part in sorted(rewriters.iterdir())}
    rows = [(name, f"{size:.2f}") for name, size in sizes.items()]
    yield _table(("shipped (float16)", "MB"), [*rows, ("all", f"{sum(sizes.values()):.2f}")])


def _oracle() -> Iterable[str]:
    """Accepted true and false claims, by kind and by rendering quality, and confusions."""
    clean, mixed = (
        evaluate.measure_oracle(_COUNT, 101, clean=True),
        evaluate.measure_oracle(_COUNT, 102, clean=False),
    )
    kinds = list(mixed.accepted_true)
    yield _table(
        (
            "claim",
            "true accepted, clean",
            "swapped accepted, clean",
            "true accepted, all",
            "swapped accepted, all",
        ),
        [
            (
                kind,
                *(
                    _percent(part.get(kind))
                    for r in (clean, mixed)
                    for part in (r.accepted_true, r.accepted_swapped)
                ),
            )
            for kind in sorted(kinds, key=lambda kind: kind == "all")
        ],
    )
    deciles = [(str(i + 1), _percent(value)) for i, value in enumerate(mixed.by_quality_decile)]
    yield "True claims accepted, by decile of rendering quality (1 is the lowest):"
    yield _table(("decile", "accepted"), deciles)
    yield "Confused attributes, in single-object scenes of all qualities:"
    yield _table(
        ("confusion", "times"), [(k, str(v)) for k, v in mixed.confusions.items()] or [("none", "0")]
    )


def _reward_models() -> Iterable[str]:
    """Accuracy of each trained reward against what it was trained to imitate."""
    rule = load_reward("world-rule")
    rows, attributes = [], []
    for name in (
        "world-clip",
        "world-pick",
        "world-hps",
        "world-siglip",
        "world-blip",
        "world-vqa",
        "world-aesthetic",
    ):
        reward = load_reward(name)
        accuracies: dict[str, float] = {}
        if reward.info.uses_prompt:
            accuracies |= evaluate.measure_alignment(reward, _COUNT, 103)
        if name in evaluate.RATERS:
            accuracies |= evaluate.measure_preference(reward, evaluate.RATERS[name], _COUNT, 104)
        accuracies |= evaluate.measure_correlation(reward, rule, _COUNT, 105)
        rows.append((name, reward.info.role, *(_number(accuracies.get(k)) for k in _MEASURES)))
        if reward.info.uses_prompt:
            attributes.append((name, *(_number(accuracies.get(k)) for k in data.ATTRIBUTES)))
    yield _table(("reward", "role", *_MEASURES.values()), rows)
    yield (
        "Right caption beats near miss, by the attribute that is swapped (0.5 is chance; few scenes have a "
        "relation, so that column is coarse, and the card has equal counts):"
    )
    yield _table(("reward", *data.ATTRIBUTES), attributes)


_MEASURES = {
    "near_miss": "right caption beats near miss",
    "picture": "right image beats near miss",
    "retrieval": "own caption best of 100",
    "pairs": "rater's pairs",
    "pearson_with_rule": "Pearson with the rule",
}


def _base_pipeline(
    docs: Path, samples: ValidationSamples, guidance: float, words: str, note: _Note
) -> Iterable[str]:
    """Claims and rewards of the validation prompts by guidance and by style words, beside the ceiling."""
    rewards = [load_reward(name) for name in ("world-aesthetic", "world-rule", "world-clip")]
    scenes = true_scenes(samples.prompts, MIDDLING)
    decoded = Decoded.of_pipeline(samples.pipeline).render(scenes)
    ceiling = PromptImages(samples.prompts, to_bytes(decoded))
    rows = [("ceiling", *_row(ceiling, rewards))]
    for value in _GUIDANCES:
        note(f"measuring: guidance {value}")
        rows.append((f"guidance {value:g}", *_row(samples.get(value), rewards)))
    plain, styled = samples.get(guidance), samples.get(guidance, words)
    rows.append((f"guidance {guidance:g}, `{words}`", *_row(styled, rewards)))
    yield (
        f"The {len(samples.prompts)} validation prompts (DDIM, 25 steps), at each guidance scale and with "
        "style words. The ceiling is true scenes of the prompts in middling style, as the VAE decodes them:"
    )
    yield _table(("prompts", *_COLUMNS), rows)
    both = (ceiling, plain, styled)
    for title, shares in (
        ("claim", [part.true_claims() for part in both]),
        ("all claims true", [part.true_images() for part in both]),
    ):
        yield _table((title, "ceiling", "plain", "with style words"), _side_by_side(*shares))
    _save_grid(
        docs / "ceiling.png",
        ceiling.images[:48],
    )
    _save_grid(
        docs / "renders.png",
        data.render_batch(data.random_scenes(np.random.default_rng(7), 32)),
    )
    _save_grid(docs / "samples.png", plain.images[:48])
    _save_grid(docs / "samples-style-words.png", styled.images[:48])
    yield (
        "Rendered scenes with independent looks; then true scenes of validation prompts through the VAE, and "
        "samples of the same prompts without and with style words:"
    )
    yield "\n\n".join(f"![{n}]({n}.png)" for n in ("renders", "ceiling", "samples", "samples-style-words"))
    if (docs / _FORMER_SAMPLES).is_file():
        yield "Samples of the first edition of the world, for comparison:"
        yield f"![samples of the first edition]({_FORMER_SAMPLES})"


_COLUMNS = ("claims true", "all true, single object", "world-aesthetic", "world-rule", "world-clip")


def _row(sampled: PromptImages, rewards: Sequence[Reward]) -> tuple[str, ...]:
    """Return the cells of `_COLUMNS`: shares, then mean rewards with normal 95 % intervals."""
    import torch

    images = sampled.pixels
    texts = [prompt.text for prompt in sampled.prompts]
    with torch.inference_mode():
        values = [reward.score(images, texts) for reward in rewards]
    scores = [f"{float(v.mean()):.3f} ± {1.96 * float(v.std()) / len(v) ** 0.5:.3f}" for v in values]
    return (_percent(sampled.true_claims()["all"]), _percent(sampled.true_images()["single"]), *scores)


def _save_grid(path: Path, images: object, columns: int = 16, scale: int = 2) -> None:
    """Save images, float (N, 3, H, W) or uint8 (N, H, W, 3), as a grid in one PNG."""
    import torch
    from PIL import Image

    array = to_bytes(images) if isinstance(images, torch.Tensor) else np.asarray(images)
    array = np.pad(array, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = [
        np.concatenate(list(array[start : start + columns]), axis=1)
        for start in range(0, len(array), columns)
    ]
    whole = Image.fromarray(np.concatenate(rows, axis=0))
    whole.resize((whole.width * scale, whole.height * scale), Image.Resampling.NEAREST).save(
        path, optimize=True
    )


def _curves(logs: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = -(-len(logs) // _CURVES)
    figure, axes = pyplot.subplots(lines, _CURVES, figsize=(2.6 * _CURVES, 2 * lines), squeeze=False)
    for axis in axes.flat[len(logs) :]:
        axis.axis("off")
    for axis, (name, rows) in zip(axes.flat, logs.items(), strict=False):
        axis.plot([row["step"] for row in rows], [row["loss"] for row in rows], linewidth=0.8)
        axis.set_title(name, fontsize=9)
        axis.set_yscale("log")
        axis.tick_params(labelsize=7)
    figure.supxlabel("optimiser step", fontsize=9)
    figure.supylabel("loss", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _rows(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _pace(rows: Sequence[Mapping[str, float]]) -> float:
    """Seconds a step, in the process that finished the training."""
    return rows[-1]["seconds_per_step"]


def _final_loss(rows: Sequence[Mapping[str, float]]) -> float:
    return float(np.mean([row["loss"] for row in rows[-10:]]))


def _megabytes(path: Path) -> float:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


def _side_by_side(*parts: Mapping[str, float]) -> list[tuple[str, ...]]:
    return [(key, *(_percent(part[key]) for part in parts)) for key in parts[0]]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    return markdown_table([dict(zip(head, map(str, row), strict=True)) for row in rows])
