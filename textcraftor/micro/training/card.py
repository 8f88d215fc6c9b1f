"""The world card: properties that a comparison of methods needs, their bars, and their measured values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from leaderboards.markdown import markdown_table
from rewards.base import Reward
from rewards.registry import load as load_reward
from rewards.world.training.evaluate import score_batches
from textcraftor.micro.training import properties
from textcraftor.micro.training.measure import ValidationSamples
from textcraftor.micro.training.properties import BEST, MIDDLING, Decoded
from textcraftor.micro.training.text import CAPTIONS
from textcraftor.micro.training.unet import load_trained_unet, unet_seconds

_TRIES = 8
"""Images of a prompt among which rewards choose."""

_FORMER_CHANNELS = 8
"""Latent channels of the first edition, the unit of the cost of a UNet pass."""


@dataclass(frozen=True)
class _Bar:
    """A measured property with its bar."""

    what: str
    bar: str
    value: str
    reached: bool | None = None
    """None if the value is for information."""


@dataclass(frozen=True)
class _Section:
    """A property: its counterpart in real models, how it is measured, and whom its bar favours."""

    title: str
    counterpart: str
    measured: str
    favours: str
    bars: Sequence[_Bar]

    def lines(self) -> Iterable[str]:
        yield f"## {self.title}"
        yield f"**In real models.** {self.counterpart}"
        yield f"**Measured here.** {self.measured}"
        yield f"**Favours.** {self.favours}"
        reached = {True: "yes", False: "**no**", None: "-"}
        yield markdown_table(
            [
                {
                    "property": bar.what,
                    "bar": bar.bar,
                    "measured": bar.value,
                    "reached": reached[bar.reached],
                }
                for bar in self.bars
            ]
        )


class WorldCard:
    """Measures the properties of the installed world.

    Args:
        folder: Folder of the build, for the text encoder that has seen many captions.
        samples: Samples of the micro pipeline.
        guidance: Guidance scale of samples.
        words: Style words that prompt engineering appends.
        note: Receives a line about each part.
    """

    def __init__(
        self,
        folder: Path,
        samples: ValidationSamples,
        guidance: float,
        words: str,
        note: Callable[[str], None] = print,
    ) -> None:
        self._decoded, self._samples, self._folder = Decoded.of_pipeline(samples.pipeline), samples, folder
        self._guidance, self._words, self._note = guidance, words, note
        self._validation = samples.prompts

    def write(self, path: Path) -> None:
        """Measure everything and write the card."""
        measures = (
            self._ceiling, self._looks, self._style_words, self._neutrality, self._acuity, self._headroom,
            self._independence, self._cost,
        )  # fmt: skip
        sections = []
        for measure in measures:
            self._note(f"measuring: {measure.__name__.strip('_').replace('_', ' ')}")
            sections.append(measure())
        bars = [bar for section in sections for bar in section.bars if bar.reached is not None]
        failed = [bar.what for bar in bars if not bar.reached]
        lines = [
            "# World card",
            "Written by `tcbench world report`, which measures every value on validation prompts and on new "
            "scenes; no held-out prompt is used. Pictures are true scenes as the pipeline's VAE decodes "
            "them, unless samples are named.",
            "A bar is the value that a property should have. In a middling style all four looks are at 0.5, "
            "in the best at 1. The base is the untuned `micro`. The oracle (`world-oracle`) checks "
            "the claims of a prompt, the rule (`world-rule`) scores looks; both analyse pixels, without "
            "weights.",
            f"{len(bars) - len(failed)} of {len(bars)} bars are reached."
            + (f" Not reached: {'; '.join(failed)}." if failed else ""),
            *(line for section in sections for line in section.lines()),
        ]
        path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")

    def _ceiling(self) -> _Section:
        bars = []
        for name, style in (("middling", MIDDLING), ("best", BEST)):
            result = self._decoded.ceiling(style, 1400)
            worst = min(result.groups, key=lambda group: result.groups[group][1])
            claims, whole, count = result.groups[worst]
            bars += [
                _at_least(f"claims, {name} style", 0.98, result.claims),
                _at_least(f"all claims of a scene, {name} style", 0.95, result.all_true),
                _Bar(
                    f"worst shape and size, {name} style",
                    ">= 98 % of claims, >= 95 % all true",
                    f"{worst}: {_percent(claims)}, {_percent(whole)} of {count}",
                    claims >= 0.98 and whole >= 0.95,
                ),
            ]
        return _Section(
            "Ceiling",
            "Autoencoders reconstruct what diffusion models fail to compose: the FID of reconstructions is "
            "1 to 2.4 (Esser et al. 2024, table 3), while Stable Diffusion 1.5 gets .38 of two-object "
            "prompts and .04 of positions right (Ghosh et al. 2023, GenEval, table 2).",
            "Random scenes, all attributes claimed, encoded and decoded by the VAE, then read by the oracle. "
            "True scenes of the validation prompts are the row `ceiling` in the report.",
            "No method.",
            bars,
        )

    def _looks(self) -> _Section:
        names = ("world-rule", "world-aesthetic", "world-blip", "world-pick", "world-hps")
        changes = self._decoded.looks(_load(names), 200)
        barred = ("world-rule", "world-aesthetic", "world-blip")
        return _Section(
            "Looks",
            "Aesthetic quality has many directions: Datta et al. 2006 and AVA (Murray et al. 2012) list "
            "light, colour, depth and composition among them.",
            "Each axis of the renderer alone goes from 0 to 1, in 200 scenes whose other axes are random. "
            "The bar is the smallest change of the four as a share of the largest.",
            "No method.",
            [
                _Bar(
                    f"{name}: " + ", ".join(f"{axis} {value:+.2f}" for axis, value in changes[name].items()),
                    ">= 0.33" if name in barred else "-",
                    f"{properties.style_share(changes[name]):.2f}",
                    properties.style_share(changes[name]) >= 0.33 if name in barred else None,
                )
                for name in names
            ],
        )

    def _style_words(self) -> _Section:
        rule = load_reward("world-rule")
        texts = [prompt.text for prompt in self._validation]
        best = self._decoded.render(properties.true_scenes(self._validation, BEST))
        plain, styled = self._sample(), self._sample(words=self._words)
        low, words, high = (
            float(score_batches(rule, images, texts).mean()) for images in (plain, styled, best)
        )
        left = (high - words) / (high - low)
        return _Section(
            "Style words",
            "Captions name some looks and not others, and unqualified prompts give mediocre pictures. In "
            "TextCraftor's table 1, prompt engineering gains 0.44 points of aesthetic score; tuning text "
            "encoder and UNet gains 1.15, so words leave 62 % of this gain.",
            f"`{self._words}` is appended to the {len(texts)} validation prompts. The headroom is the rule's "
            "mean on true scenes in the best style, through the VAE, minus its mean on plain samples.",
            "Tuning, over prompt engineering: what words cannot name is left to tuning. The evidence is the "
            "paper's own table.",
            [
                _Bar(
                    "rule on plain samples, with style words, best",
                    "-",
                    f"{low:.2f}, {words:.2f}, {high:.2f}",
                ),
                _Bar("style words raise the rule", "> 0", f"{words - low:+.2f}", words > low),
                _at_least("headroom that style words leave", 0.40, left),
            ],
        )

    def _neutrality(self) -> _Section:
        names = ("world-clip", "world-siglip", "world-vqa")
        changes = self._decoded.neutrality(_load(names), 300)
        return _Section(
            "Neutrality",
            "CLIP's similarity measures compatibility of image and text (Hessel et al. 2021), and agrees "
            "with people's overall preferences much less than models that are trained on these (Kirstain "
            "et al. 2023, table 1): it does not punish good pictures.",
            "300 scenes in middling and in the best style, under the plain true caption. The unit is the "
            "reward's standard deviation over right captions of middling pictures. All three are trained on "
            "pairs of renders in independent styles; world-clip and world-siglip also with a penalty on the "
            "variance of a caption's score over right pictures.",
            "No method. The first edition's rewards fell by 6 to 7 deviations, which favoured methods that "
            "change nothing.",
            [
                _Bar(f"{name}, middling to best style", "-0.5 to +0.5", f"{value:+.2f}", abs(value) <= 0.5)
                for name, value in changes.items()
            ],
        )

    def _acuity(self) -> _Section:
        names = ("world-clip", "world-siglip", "world-vqa", "world-blip")
        rewards, oracle = _load(names), load_reward("world-oracle")
        shares = self._decoded.near_misses(rewards, 150)
        tries = [self._sample(sample=number) for number in range(_TRIES)]
        within, mean = properties.measure_within_prompts(tries, self._validation, rewards, oracle)
        bars = [
            _Bar(
                f"{name}: right caption beats near miss",
                "-",
                ", ".join(f"{kind} {share:.2f}" for kind, share in shares[name].items()),
            )
            for name in names
        ]
        for name, result in within.items():
            barred = name in ("world-clip", "world-vqa")
            bars.append(
                _Bar(
                    f"{name}: correlation with the oracle within a prompt",
                    ">= 0.3" if barred else "-",
                    f"{result.correlation:.2f} ({result.prompts} of {len(self._validation)} prompts)",
                    result.correlation >= 0.3 if barred else None,
                )
            )
            bars.append(
                _Bar(f"{name}: oracle of its best of {_TRIES}", "-", f"{result.best:.3f} from {mean:.3f}")
            )
        return _Section(
            "Acuity",
            "CLIP misses composition (Thrush et al. 2022, Yuksekgonul et al. 2023), VQAScore less so (Lin et "
            "al. 2024); both still rank samples of a prompt by alignment.",
            f"150 decoded pictures for each kind of near miss; and {_TRIES} samples of each validation "
            "prompt by the base. The correlation is the mean over the prompts whose samples have different "
            "oracle scores. Near misses have no bar; 0.5 is chance, which swaps hardly exceed.",
            "Methods that use the alignment reward.",
            bars,
        )

    def _headroom(self) -> _Section:
        ceiling = properties.by_category(
            self._decoded.render(properties.true_scenes(self._validation, MIDDLING)), self._validation
        )
        base = properties.by_category(self._sample(), self._validation)
        many = properties.by_category(self._sample(many_captions=True), self._validation)
        bars = []
        for group in ("one object", "two objects"):
            claims = ceiling.groups[group][0] - base.groups[group][0]
            whole = ceiling.groups[group][1] - base.groups[group][1]
            bars += [
                _between(f"claims below the ceiling, {group}", 0.05, 0.10, claims),
                _between(f"all claims true, below the ceiling, {group}", 0.15, 0.30, whole),
            ]
        closed = (many.all_true - base.all_true) / (ceiling.all_true - base.all_true)
        bars.append(_at_least("share of this that a text encoder with many captions closes", 0.5, closed))
        bars += [
            _Bar(
                f"{group}: ceiling, base, many captions",
                "-",
                "; ".join(
                    f"{_percent(part.groups[group][0])} claims, {_percent(part.groups[group][1])} all"
                    for part in (ceiling, base, many)
                ),
            )
            for group in base.groups
        ]
        return _Section(
            "Headroom",
            "A better text encoder under the same image model helps more than a larger UNet (Saharia et al. "
            "2022, section 4.4), so conditioning is a bottleneck that tuning can widen.",
            f"Validation prompts. The base's text encoder was distilled from {CAPTIONS} captions; the other "
            "was trained with the UNet on every caption.",
            "Methods that tune the text encoder, as the method's premise is.",
            bars,
        )

    def _independence(self) -> _Section:
        names = ("world-clip", "world-aesthetic", "world-pick", "world-hps", "world-siglip", "world-blip")
        records = [load_reward(name).info for name in (*names, "world-vqa", "world-rule", "world-oracle")]
        trained = {record.family for record in records if record.role == "trainable"}
        return _Section(
            "Independence",
            "Rewards that share a backbone rise together, so a judge must share none (Gao et al. 2023 on "
            "over-optimisation against a proxy).",
            "The family of a record names its weights and training data. Judges and the selector have "
            "weights, architectures, training seeds and rater tastes of their own; the judges' tokenizers "
            "are not those of trained rewards. All are trained on scenes of the same renderer. world-siglip "
            "has world-clip's tokenizer and kind of batches, and world-vqa's vision tower is a CLIP's in "
            "another size. The rule and the oracle have no learned weights.",
            "No method.",
            [
                _Bar(
                    f"{record.name} ({record.role})",
                    "no family of a trained reward" if record.role != "trainable" else "-",
                    record.family,
                    record.family not in trained if record.role != "trainable" else None,
                )
                for record in records
            ],
        )

    def _cost(self) -> _Section:
        # One process times both in turn, so the ratio holds on a busy machine.
        ratio = float(np.median([unet_seconds() / unet_seconds(_FORMER_CHANNELS) for _ in range(5)]))
        return _Section(
            "Cost",
            "-",
            "Seconds of a UNet pass with 16 images, in turn with the first edition's 8 latent channels; the "
            "median of 5 ratios.",
            "No method.",
            [_Bar("cost of a UNet pass, first edition = 1", "<= 1.5", f"{ratio:.2f}", ratio <= 1.5)],
        )

    def _sample(self, words: str = "", sample: int = 0, many_captions: bool = False) -> Tensor:
        """Samples of the validation prompts, (P, 3, 64, 64)."""
        encoder = load_trained_unet(self._folder).text_encoder.eval() if many_captions else None
        return self._samples.get(self._guidance, words, sample=sample, text_encoder=encoder).pixels


def _load(names: Iterable[str]) -> Mapping[str, Reward]:
    return {name: load_reward(name) for name in names}


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _at_least(what: str, bar: float, value: float) -> _Bar:
    return _Bar(what, f">= {100 * bar:.0f} %", _percent(value), value >= bar)


def _between(what: str, low: float, high: float, value: float) -> _Bar:
    # A difference of two shares can miss a bar by a rounding error.
    reached = low <= round(value, 9) <= high
    return _Bar(what, f"{100 * low:.0f} to {100 * high:.0f} points", f"{100 * value:.2f} points", reached)
