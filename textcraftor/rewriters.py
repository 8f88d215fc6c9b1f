"""Prompt engineering by language models: what the pipeline is given in place of a prompt.

Rewards always see the original prompt. A rewrite depends on the prompt, its number in the suite and the seed,
never on what else is rewritten in the same batch, and is kept beside the images it was made for.
"""

from __future__ import annotations

import copy
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rewards.weights import hub
from rewards.weights.lock import cached_sha256
from tcbench.errors import ConfigError, MissingFiles, UnknownName
from tcbench.files import append_lines, read_lines, write_atomically
from tcbench.progress import Progress
from tcbench.quiet import quiet
from textcraftor.diffusion.pipeline import REWRITING
from textcraftor.diffusion.prompts import canonical, noise_seed

if TYPE_CHECKING:
    from textcraftor.diffusion.prompts import Prompt

KEPT = "rewrites.jsonl"
"""The run's file of rewrites."""

SETTINGS = "rewriter.toml"
"""In a folder with a causal language model: how it rewrites."""

FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.bin")
BATCH = 16


@dataclass(frozen=True)
class Rewriter:
    """A causal language model and how it is asked."""

    name: str
    place: str
    """A hub id, or a folder."""
    template: str = "{prompt}"
    continues: bool = False
    """Whether what it writes continues the prompt; else it takes its place."""
    new_tokens: int = 75
    beams: int = 1
    """Of a search without chance; 1: tokens are drawn."""
    length_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    revision: str | None = None
    trained_on: tuple[str, ...] | None = None
    """Rewards that it was optimised for; a leaderboard marks their columns. None: nobody says."""
    source: str = field(default="", compare=False)
    """Where template and decoding are published."""

    def __post_init__(self) -> None:
        if "{prompt}" not in self.template:
            raise ConfigError(f"template {self.template!r} of {self.name} has no {{prompt}} to put it in")


REWRITERS: Mapping[str, Rewriter] = MappingProxyType(
    {
        "prompt-extend": Rewriter(
            "prompt-extend", "daspartho/prompt-extend", "{prompt},", continues=True, new_tokens=50, top_k=50,
            trained_on=(),
            source="model card of daspartho/prompt-extend",
        ),
        "promptist": Rewriter(
            "promptist", "microsoft/Promptist", "{prompt} Rephrase:", new_tokens=75, beams=8,
            length_penalty=-1.0, trained_on=("aesthetic-v2", "clip"),
            source="Hao et al. 2023, Optimizing Prompts for Text-to-Image Generation; "
            "the demo of microsoft/Promptist",
        ),
        "beautiful-prompt": Rewriter(
            "beautiful-prompt", "alibaba-pai/pai-bloom-1b1-text2prompt-sd",
            "Instruction: Give a simple description of the image to generate a drawing prompt.\n"
            "Input: {prompt}\nOutput:",
            new_tokens=384, top_k=50, top_p=0.95, repetition_penalty=1.2,
            trained_on=("pickscore", "aesthetic-v2"),
            source="Cao et al. 2023, BeautifulPrompt; model card of alibaba-pai/pai-bloom-1b1-text2prompt-sd",
        ),
        "world-extend": Rewriter(
            "world-extend", str(REWRITING / "world-extend"), "{prompt},", continues=True, new_tokens=24,
            trained_on=(), source="textcraftor/micro/training/rewriter.py",
        ),
        "world-promptist": Rewriter(
            "world-promptist", str(REWRITING / "world-promptist"), "{prompt},", continues=True, new_tokens=24,
            trained_on=("world-aesthetic", "world-pick", "world-hps", "world-clip"),
            source="`tcbench reproduce world-table`: its rewriter's first seed, in half precision",
        ),
    }
)  # fmt: skip


def write_settings(rewriter: Rewriter, folder: Path) -> None:
    """``folder/rewriter.toml``, which makes a folder with a language model a rewriter."""
    usual = {field.name: field.default for field in fields(Rewriter)}
    asked = {name: value for name, value in asdict(rewriter).items() if value != usual[name]}
    for own in ("name", "place", "revision"):
        asked.pop(own, None)
    lines = [f"{name} = {json.dumps(value)}" for name, value in asked.items()]
    write_atomically(folder / SETTINGS, ("\n".join(lines) + "\n").encode())


def find_rewriter(name: str) -> Rewriter:
    """A named one, or a folder with a language model and rewriter.toml.

    Raises UnknownName with close matches, ConfigError for settings that cannot be used.
    """
    if name in REWRITERS:
        return REWRITERS[name]
    folder = Path(name).expanduser()
    if not (folder / SETTINGS).is_file():
        raise UnknownName(f"prompt rewriter, or folder with {SETTINGS}", name, REWRITERS)
    try:
        values = tomllib.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        usual = {field.name: field.default for field in fields(Rewriter)}
        kinds = {"name": str, "revision": str, "trained_on": list}
        for key, value in values.items():
            expected = kinds.get(key) or (type(usual[key]) if key in usual else str)
            if not isinstance(value, (int, float) if expected is float else expected):
                raise ConfigError(f"{folder / SETTINGS}: {key} = {value!r}; expected {expected.__name__}")
        if "trained_on" in values:
            values["trained_on"] = tuple(map(str, values["trained_on"]))
        return Rewriter(**{"name": folder.resolve().name, **values, "place": str(folder)})
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise ConfigError(f"{folder / SETTINGS}: {error}; expected fields of Rewriter") from error


def find_model(rewriter: Rewriter, *, fetch: bool = True) -> Path:
    """The folder of its language model, from the hub client's cache unless it is given. Raises
    MissingFiles.
    """
    folder = Path(rewriter.place).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    offline = hub.offline_reason() if fetch else "nothing is downloaded now"
    try:
        return Path(
            snapshot_download(
                rewriter.place,
                revision=rewriter.revision,
                allow_patterns=list(FILES),
                local_files_only=bool(offline),
            )
        )
    except Exception as error:  # the client lets its HTTP library's own errors through
        reason = f"not in the hub client's cache, and {offline}" if offline else str(error).splitlines()[0]
        raise MissingFiles(
            f"rewriter {rewriter.name} needs {rewriter.place}: {reason}; fetch it online"
        ) from error


def settings(rewriter: Rewriter, folder: Path) -> dict[str, Any]:
    """What decides its rewrites: for the generation id."""
    files = sorted(file for pattern in FILES for file in folder.glob(pattern))
    hashes = [f"{file.name} {cached_sha256(file)}" for file in files]
    record = asdict(rewriter)
    for unimportant in ("name", "place", "revision", "source", "trained_on"):
        record.pop(unimportant)
    return record | {"sha256": hashlib.sha256("\n".join(hashes).encode()).hexdigest()}


def rewrite(
    rewriter: Rewriter,
    folder: Path,
    prompts: Sequence[Prompt],
    kept: Path,
    *,
    seed: int,
    device: str,
    progress: Progress,
) -> dict[int, str]:
    """The rewrites of ``prompts`` by id; those in the file ``kept`` are taken from it, others are added."""
    found = {int(row["prompt_id"]): str(row["text"]) for row in read_lines(kept)}
    todo = [prompt for prompt in prompts if prompt.id not in found]
    progress.stage("rewriting prompts", len(prompts), len(prompts) - len(todo))
    if not todo:
        return found
    writer = Writer(rewriter, folder, device)
    for start in range(0, len(todo), BATCH):
        part = todo[start : start + BATCH]
        seeds = [noise_seed(seed, prompt.id, 0) for prompt in part]
        texts = writer.write([prompt.text for prompt in part], seeds).texts
        rows = [
            {"prompt_id": prompt.id, "prompt": prompt.text, "text": text}
            for prompt, text in zip(part, texts, strict=True)
        ]
        append_lines(kept, rows)
        found |= {prompt.id: text for prompt, text in zip(part, texts, strict=True)}
        progress.advance(len(part))
    return found


@dataclass(frozen=True)
class Written:
    """Rewrites, and the token ids they are of: what the model was asked, and what it answered, its end
    included.
    """

    texts: Sequence[str]
    asked: Sequence[Sequence[int]]
    answered: Sequence[Sequence[int]]


class Writer:
    """The language model, loaded."""

    def __init__(self, rewriter: Rewriter, folder: Path, device: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.rewriter, self.device = rewriter, device
        try:
            with quiet("transformers"):
                self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
                self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        except (OSError, ValueError) as error:
            said = str(error).splitlines()[0]
            raise ConfigError(f"{folder} is no causal language model: {said}") from error
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model.to(device).eval()

    def by(self, rewriter: Rewriter) -> Writer:
        """The same model, asked otherwise."""
        other = copy.copy(self)
        other.rewriter = rewriter
        return other

    def write(self, prompts: Sequence[str], seeds: Sequence[int]) -> Written:
        """A rewrite each; a prompt of which nothing was made stays as it is."""
        import torch

        own = self.rewriter
        if own.repetition_penalty != 1 and len(prompts) > 1:  # it would be of the padding of others too
            alone = [self.write([prompt], [seed]) for prompt, seed in zip(prompts, seeds, strict=True)]
            return Written(
                [text for found in alone for text in found.texts],
                [ids for found in alone for ids in found.asked],
                [ids for found in alone for ids in found.answered],
            )
        inputs = self.tokenizer(self.questions(prompts), return_tensors="pt", padding=True).to(self.device)
        self._check_length(inputs["input_ids"].shape[1])
        with torch.inference_mode():
            tokens = self.model.generate(
                **inputs,
                max_new_tokens=own.new_tokens,
                do_sample=False,
                num_beams=own.beams,
                length_penalty=own.length_penalty,
                logits_processor=self._processors(seeds),
                pad_token_id=self.tokenizer.pad_token_id,
            )
        width = inputs["input_ids"].shape[1]
        written = self.tokenizer.batch_decode(tokens[:, width:], skip_special_tokens=True)
        masks = inputs["attention_mask"].bool()
        return Written(
            [self._result(*pair) for pair in zip(prompts, written, strict=True)],
            [ids[mask].tolist() for ids, mask in zip(inputs["input_ids"], masks, strict=True)],
            [self._ended(row) for row in tokens[:, width:].tolist()],
        )

    def questions(self, prompts: Sequence[str]) -> list[str]:
        """What the model is asked."""
        return [self.rewriter.template.replace("{prompt}", prompt) for prompt in prompts]

    def _check_length(self, asked: int) -> None:
        """Raises ConfigError where the model has no places for what it is asked and what it will answer."""
        places = getattr(self.model.config, "max_position_embeddings", None)
        if places and asked + self.rewriter.new_tokens > places:
            raise ConfigError(
                f"a prompt is {asked} tokens of {self.rewriter.name}, which has {places} places for it "
                f"and the {self.rewriter.new_tokens} that are written: shorten it, or set fewer new_tokens"
            )

    def _ended(self, ids: Sequence[int]) -> list[int]:
        """Up to the first end, which is kept; padding comes after it."""
        end = self.tokenizer.eos_token_id
        return list(ids[: ids.index(end) + 1] if end in ids else ids)

    def _processors(self, seeds: Sequence[int]) -> Any:
        """Drawing tokens as a greedy choice: by the Gumbel-max trick, with noise of each prompt's own."""
        from transformers import (
            LogitsProcessorList,
            RepetitionPenaltyLogitsProcessor,
            TemperatureLogitsWarper,
            TopKLogitsWarper,
            TopPLogitsWarper,
        )

        own, found = self.rewriter, LogitsProcessorList()
        if own.repetition_penalty != 1:
            found.append(RepetitionPenaltyLogitsProcessor(own.repetition_penalty))
        if own.beams > 1:
            return found
        if own.temperature != 1:
            found.append(TemperatureLogitsWarper(own.temperature))
        if own.top_k:
            found.append(TopKLogitsWarper(own.top_k))
        if own.top_p < 1:
            found.append(TopPLogitsWarper(own.top_p))
        found.append(_gumbel(seeds))
        return found

    def _result(self, prompt: str, written: str) -> str:
        text = canonical((written.strip().splitlines() or [""])[0])
        if not text:
            return prompt
        return canonical(f"{self.questions([prompt])[0]} {text}") if self.rewriter.continues else text


def _gumbel(seeds: Sequence[int]) -> Any:
    """A logits processor that adds standard Gumbel noise, each row from a generator of its own."""
    import torch
    from transformers import LogitsProcessor

    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]

    class Gumbel(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            rows = [torch.rand(scores.shape[1], generator=g, dtype=torch.float64) for g in generators]
            noise = -torch.log(-torch.log(torch.stack(rows)))
            return scores + noise.to(scores)

    return Gumbel()
