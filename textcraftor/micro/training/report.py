"""The report on the embedded world: measures all its numbers, and writes ``report.md`` and its images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from rewards.base import Reward
from rewards.registry import load as load_reward
from rewards.world.prompts import world_prompts
from rewards.world.training import data, evaluate
from textcraftor.micro.training.measure import PromptImages, sample_prompts
from textcraftor.micro.training.stages import STAGES

_GUIDANCES = (1.5, 2.0, 3.0, 5.0)
_COUNT = 1000
"""Rendered scenes that each accuracy is measured on."""

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
        guidance: Guidance scale of the held-out prompts.
        words: Style words that are appended to them.
        note: Receives a line about each part.
    """
    docs.mkdir(parents=True, exist_ok=True)
    sections = [
        "# The embedded world, measured",
        "Written by `tcbench world report`, which measures every number. Accuracies are measured on new "
        f"rendered scenes ({_COUNT} each) that no model was trained on; the scenes are the ground truth.",
    ]
    parts: Mapping[str, Callable[[], Iterable[str]]] = {
        "Training": lambda: _training(folder, docs, rewards, pipeline),
        "Oracle": _oracle,
        "Reward models": _reward_models,
        "Base pipeline": lambda: _base_pipeline(docs, pipeline, guidance, words, note),
    }
    for title, measure in parts.items():
        note(f"measuring: {title.lower()}")
        sections += [f"## {title}", *measure()]
    (docs / "report.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


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
    yield _table(("model", "steps", "core-minutes", "loss at the end"), table)
    yield f"{total:.0f} core-minutes in all, with one thread per model, in {len(STAGES)} stages."
    yield "![Loss curves](curves.png)"
    _curves(logs, docs / "curves.png")
    sizes = {name: _megabytes(rewards / name) for name in sorted(p.name for p in rewards.iterdir())}
    sizes |= {
        f"pipeline/{part.name}": _megabytes(part) for part in sorted(pipeline.iterdir()) if part.is_dir()
    }
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
    for name in ("world-clip", "world-pick", "world-hps", "world-siglip", "world-blip", "world-aesthetic"):
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
    yield "Right caption beats near miss, by the attribute that is swapped (0.5 is chance):"
    yield _table(("reward", *data.ATTRIBUTES), attributes)


_MEASURES = {
    "near_miss": "right caption beats near miss",
    "picture": "right image beats near miss",
    "retrieval": "own caption best of 100",
    "pairs": "rater's pairs",
    "pearson_with_rule": "Pearson with the rule",
}


def _base_pipeline(docs: Path, pipeline: Path, guidance: float, words: str, note: _Note) -> Iterable[str]:
    """Claims and rewards of validation prompts by guidance, and of held-out prompts by style words."""
    validation = world_prompts("validation")
    rewards = [load_reward(name) for name in ("world-aesthetic", "world-rule", "world-clip")]
    rows = []
    for value in _GUIDANCES:
        note(f"measuring: guidance {value}")
        rows.append((f"{value:g}", *_row(sample_prompts(pipeline, validation, value), rewards)))
    yield f"Guidance scales, on the {len(validation)} validation prompts (DDIM, 25 steps):"
    yield _table(("guidance", *_COLUMNS), rows)
    test = world_prompts("test")
    plain = sample_prompts(pipeline, test, guidance)
    styled = sample_prompts(pipeline, test, guidance, words)
    yield f"The {len(test)} held-out prompts at guidance {guidance:g}, plain or with `{words}` appended:"
    yield _table(
        ("prompts", *_COLUMNS),
        [("plain", *_row(plain, rewards)), ("with style words", *_row(styled, rewards))],
    )
    yield _table(("claim", "plain", "with style words"), _both(plain.true_claims(), styled.true_claims()))
    yield _table(
        ("all claims true", "plain", "with style words"), _both(plain.true_images(), styled.true_images())
    )
    _save_grid(
        docs / "renders.png",
        data.render_batch(np.random.default_rng(7), data.random_scenes(np.random.default_rng(7), 32)),
    )
    _save_grid(docs / "samples.png", plain.images[:48])
    _save_grid(docs / "samples-style-words.png", styled.images[:48])
    yield "Rendered training images, then samples of the same held-out prompts without and with style words:"
    yield "\n\n".join(f"![{n}]({n}.png)" for n in ("renders", "samples", "samples-style-words"))


_COLUMNS = ("claims true", "all true, single object", "world-aesthetic", "world-rule", "world-clip")


def _row(sampled: PromptImages, rewards: Sequence[Reward]) -> tuple[str, ...]:
    """Return the cells of `_COLUMNS`: shares, then mean rewards with normal 95 % intervals."""
    import torch

    images = torch.from_numpy(sampled.images).permute(0, 3, 1, 2).float() / 255
    texts = [prompt.text for prompt in sampled.prompts]
    with torch.inference_mode():
        values = [reward.score(images, texts) for reward in rewards]
    scores = [f"{float(v.mean()):.3f} ± {1.96 * float(v.std()) / len(v) ** 0.5:.3f}" for v in values]
    return (_percent(sampled.true_claims()["all"]), _percent(sampled.true_images()["single"]), *scores)


def _save_grid(path: Path, images: object, columns: int = 16, scale: int = 2) -> None:
    """Save images, float (N, 3, H, W) or uint8 (N, H, W, 3), as a grid in one PNG."""
    import torch
    from PIL import Image

    from rewards.preprocess import to_bytes

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

    figure, axes = pyplot.subplots(2, (len(logs) + 1) // 2, figsize=(3.2 * ((len(logs) + 1) // 2), 5))
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


def _both(first: Mapping[str, float], second: Mapping[str, float]) -> list[tuple[str, str, str]]:
    return [(key, _percent(first[key]), _percent(second[key])) for key in first]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
