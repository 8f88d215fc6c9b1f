"""The report on the embedded world: everything in it is measured here, and none of it is typed.

Writes ``report.md`` and its pictures into a folder of the documentation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from rewards.registry import load as load_reward
from rewards.world.prompts import world_prompts
from rewards.world.training import data, evaluate
from textcraftor.micro.training.measure import Drawn, render_prompts
from textcraftor.micro.training.stages import STAGES

GUIDANCES = (1.5, 2.0, 3.0, 5.0)
COUNT = 1000
"""Renders behind each accuracy."""

Note = Callable[[str], None]


def write_world_report(
    folder: Path, docs: Path, rewards: Path, pipeline: Path, guidance: float, words: str, note: Note = print
) -> None:
    """Measure the world whose training logs are in ``folder`` and whose weights are installed."""
    docs.mkdir(parents=True, exist_ok=True)
    sections = [
        "# The embedded world, measured",
        "Made by `tcbench world report`; every figure is measured by that command. Accuracies are on fresh "
        f"renders ({COUNT} each) that no model was trained on; the renderer's own record is the truth.",
    ]
    parts: Mapping[str, Callable[[], Iterable[str]]] = {
        "Training": lambda: training(folder, docs, rewards, pipeline),
        "Oracle": oracle,
        "Reward models": reward_models,
        "Base pipeline": lambda: base_pipeline(docs, pipeline, guidance, words, note),
    }
    for title, measured in parts.items():
        note(f"measuring: {title.lower()}")
        sections += [f"## {title}", *measured()]
    (docs / "report.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def training(folder: Path, docs: Path, rewards: Path, pipeline: Path) -> Iterable[str]:
    """Steps, seconds and final loss of every training log, the curves, and the shipped sizes."""
    logs = {path.stem: _rows(path) for path in sorted(folder.glob("*.jsonl"))}
    table = [
        (name, rows[-1]["step"] + 1, f"{(rows[-1]['step'] + 1) * _pace(rows) / 60:.1f}", f"{_tail(rows):.4f}")
        for name, rows in logs.items()
    ]
    total = sum(float(row[2]) for row in table)
    yield _table(("model", "steps", "core-minutes", "loss at the end"), table)
    yield f"{total:.0f} core-minutes in all, one thread a model. {len(STAGES)} stages; curves: `curves.png`."
    yield "![training curves](curves.png)"
    _curves(logs, docs / "curves.png")
    sizes = {name: _megabytes(rewards / name) for name in sorted(p.name for p in rewards.iterdir())}
    sizes |= {
        f"pipeline/{part.name}": _megabytes(part) for part in sorted(pipeline.iterdir()) if part.is_dir()
    }
    rows = [(name, f"{size:.2f}") for name, size in sizes.items()]
    yield _table(("shipped (float16)", "MB"), [*rows, ("all", f"{sum(sizes.values()):.2f}")])


def oracle() -> Iterable[str]:
    """Accepted true and swapped claims, clean and over all qualities, deciles and confusions."""
    clean, mixed = evaluate.oracle(COUNT, 101, clean=True), evaluate.oracle(COUNT, 102, clean=False)
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
    yield "True claims accepted, by decile of rendering quality (1 the dullest, softest, noisiest):"
    yield _table(("decile", "accepted"), deciles)
    yield "What it confuses, in single-object scenes of all qualities:"
    yield _table(
        ("confusion", "times"), [(k, str(v)) for k, v in mixed.confusions.items()] or [("none", "0")]
    )


def reward_models() -> Iterable[str]:
    """Accuracy of each trained world reward against the truth it imitates."""
    rule = load_reward("world-rule")
    rows, attributes = [], []
    for name in ("world-clip", "world-pick", "world-hps", "world-siglip", "world-blip", "world-aesthetic"):
        reward = load_reward(name)
        found: dict[str, float] = {}
        if reward.info.uses_prompt:
            found |= evaluate.alignment(reward, COUNT, 103)
        if name in evaluate.RATERS:
            found |= evaluate.preference(reward, evaluate.RATERS[name], COUNT, 104)
        found |= evaluate.correlation(reward, rule, COUNT, 105)
        rows.append((name, reward.info.role, *(_number(found.get(k)) for k in _MEASURES)))
        if reward.info.uses_prompt:
            attributes.append((name, *(_number(found.get(k)) for k in data.ATTRIBUTES)))
    yield _table(("reward", "role", *_MEASURES.values()), rows)
    yield "The near misses by the attribute that is swapped (0.5 is chance):"
    yield _table(("reward", *data.ATTRIBUTES), attributes)


_MEASURES = {
    "near_miss": "right caption beats near miss",
    "picture": "right picture beats near miss",
    "retrieval": "own caption best of 100",
    "pairs": "rater's pairs",
    "pearson_with_rule": "Pearson with the rule",
}


def base_pipeline(docs: Path, pipeline: Path, guidance: float, words: str, note: Note) -> Iterable[str]:
    """Oracle and rewards of the held-out prompts, plain and with style words.

    Guidance on the validation split.
    """
    validation = world_prompts("validation")
    rows = []
    for value in GUIDANCES:
        note(f"measuring: guidance {value}")
        rows.append((f"{value:g}", *_row(render_prompts(pipeline, validation, value))))
    yield f"Guidance, on the {len(validation)} validation prompts (DDIM, 25 steps):"
    yield _table(("guidance", *_COLUMNS), rows)
    test = world_prompts("test")
    plain = render_prompts(pipeline, test, guidance)
    styled = render_prompts(pipeline, test, guidance, words)
    yield f"The {len(test)} held-out prompts at guidance {guidance:g}, plain and with `{words}` appended:"
    yield _table(("prompts", *_COLUMNS), [("plain", *_row(plain)), ("with style words", *_row(styled))])
    yield _table(("claim", "plain", "with style words"), _both(plain.claims(), styled.claims()))
    yield _table(("all claims true", "plain", "with style words"), _both(plain.all_true(), styled.all_true()))
    grid(
        docs / "renders.png",
        data.pictures(np.random.default_rng(7), data.random_scenes(np.random.default_rng(7), 32)),
    )
    grid(docs / "samples.png", plain.images[:48])
    grid(docs / "samples-style-words.png", styled.images[:48])
    yield "Training renders, then the same held-out prompts plain and with style words:"
    yield "\n\n".join(f"![{n}]({n}.png)" for n in ("renders", "samples", "samples-style-words"))


_COLUMNS = ("claims true", "all true, single object", "world-aesthetic", "world-rule", "world-clip")


def _row(drawn: Drawn) -> tuple[str, ...]:
    import torch

    images = torch.from_numpy(drawn.images).permute(0, 3, 1, 2).float() / 255
    texts = [prompt.text for prompt in drawn.prompts]
    with torch.inference_mode():
        means = [load_reward(n).score(images, texts) for n in ("world-aesthetic", "world-rule", "world-clip")]
    halves = [1.96 * float(m.std()) / len(m) ** 0.5 for m in means]
    scores = [f"{float(m.mean()):.3f} ± {half:.3f}" for m, half in zip(means, halves, strict=True)]
    return (_percent(drawn.claims()["all"]), _percent(drawn.all_true()["single"]), *scores)


def grid(path: Path, images: object, columns: int = 16, scale: int = 2) -> None:
    """Save pictures, float (N, 3, H, W) or uint8 (N, H, W, 3), as one PNG."""
    import torch
    from PIL import Image

    from rewards.world.pixels import to_bytes

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
    """Seconds a step of the last process that trained it."""
    return rows[-1]["seconds_per_step"]


def _tail(rows: Sequence[Mapping[str, float]]) -> float:
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
