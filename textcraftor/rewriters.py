"""Prompt rewriting by language models: the pipeline generates from the rewrite.

Rewards always see the original prompt. A rewrite depends on the prompt, its number in the suite and the seed,
not on the rest of the batch, and is stored beside the images that were generated from it.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rewards.weights import hub
from rewards.weights.lock import WeightsLock
from tcbench.errors import ConfigError, MissingFiles, UnknownName, first_line
from tcbench.files import append_lines, read_lines, visible, write_atomically
from tcbench.progress import Progress
from tcbench.quiet import quiet
from tcbench.settings import build_settings, read_toml, toml_value, validated
from textcraftor.diffusion.pipeline import MICRO_REWRITERS
from textcraftor.diffusion.prompts import canonical, noise_seed

if TYPE_CHECKING:
    from textcraftor.diffusion.prompts import Prompt

REWRITES_FILE = "rewrites.jsonl"
"""File of rewrites in a run's folder."""

SETTINGS_FILE = "rewriter.toml"
"""Settings of a rewriter, in the folder of its language model."""

FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.bin")
BATCH = 16


@validated
class Rewriter:
    """A causal language model, the template that it is prompted with, and its decoding."""

    name: str
    model: str
    """Hub id or folder of the language model."""
    template: str = "{prompt}"
    """Input of the model; ``{prompt}`` is replaced by the prompt."""
    continues: bool = False
    """Whether the output continues the prompt; otherwise it replaces it."""
    new_tokens: int = 75
    """Largest number of generated tokens."""
    beams: int = 1
    """Beams of a deterministic search; 1: tokens are sampled."""
    length_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    """Sample from the k most probable tokens; 0: from all."""
    top_p: float = 1.0
    """Sample from the most probable tokens of this total probability; 1: from all."""
    repetition_penalty: float = 1.0
    revision: str | None = None
    """Revision of a hub id; None: the newest."""
    trained_on: tuple[str, ...] | None = None
    """Rewards that it was optimised for; a leaderboard marks their columns. None: undeclared."""
    source: str = field(default="", compare=False)
    """Publication of template and decoding."""

    def __post_init__(self) -> None:
        if "{prompt}" not in self.template:
            raise ConfigError(
                f"rewriter {self.name}: template {self.template!r} does not contain {{prompt}}; add it where "
                "the prompt belongs"
            )

    @staticmethod
    def find(name: str) -> Rewriter:
        """Return a rewriter by name, or read it from a folder with a language model and rewriter.toml.

        Raises:
            UnknownName: If it is neither; the message offers close matches.
            ConfigError: If rewriter.toml has invalid settings.
        """
        if name in REWRITERS:
            return REWRITERS[name]
        folder = Path(name).expanduser()
        file = folder / SETTINGS_FILE
        if not file.is_file():
            raise UnknownName(f"prompt rewriter (a name, or a folder with {SETTINGS_FILE})", name, REWRITERS)
        values = read_toml(file)
        for reserved in ("name", "model"):
            values.pop(reserved, None)
        given = {"name": folder.resolve().name, "model": str(folder)}
        return build_settings(Rewriter, values | given, source=str(file))

    def write(self, folder: Path) -> None:
        """Write ``folder/rewriter.toml``, which makes the folder of a language model a rewriter."""
        defaults = {field.name: field.default for field in fields(Rewriter)}
        values = {name: value for name, value in asdict(self).items() if value != defaults[name]}
        for name in ("name", "model", "revision"):  # they follow from the folder
            values.pop(name, None)
        lines = [f"{name} = {toml_value(value)}" for name, value in values.items()]
        write_atomically(folder / SETTINGS_FILE, ("\n".join(lines) + "\n").encode())

    def generation_settings(self, folder: Path) -> dict[str, Any]:
        """Return everything that decides the rewrites, for the generation id."""
        files = visible(file for pattern in FILES for file in folder.glob(pattern))
        hashes = [f"{file.name} {WeightsLock().sha256(file)}" for file in files]
        record = asdict(self)
        for unimportant in ("name", "model", "revision", "source", "trained_on"):
            record.pop(unimportant)
        return record | {"sha256": hashlib.sha256("\n".join(hashes).encode()).hexdigest()}

    def find_model(self, *, fetch: bool = True) -> Path:
        """Return the folder of the language model, from the hub client's cache for a hub id.

        Args:
            fetch: Whether to download a model that is not in the cache.

        Raises:
            MissingFiles: If the model is not on this machine and cannot be downloaded.
        """
        folder = Path(self.model).expanduser()
        if folder.is_dir():
            return folder
        from huggingface_hub import snapshot_download

        offline = hub.offline_reason() if fetch else "downloads are off"
        try:
            return Path(
                snapshot_download(
                    self.model,
                    revision=self.revision,
                    allow_patterns=list(FILES),
                    local_files_only=bool(offline),
                )
            )
        except Exception as error:  # the client does not wrap the errors of its HTTP library
            reason = f"not in the hub client's cache, and {offline}" if offline else first_line(error)
            raise MissingFiles(
                f"rewriter {self.name} needs {self.model}: {reason}; download it on a machine with "
                "network access",
                download=True,
            ) from error


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
            "world-extend", str(MICRO_REWRITERS / "world-extend"), "{prompt},", continues=True, new_tokens=24,
            trained_on=(), source="textcraftor/micro/training/rewriter.py",
        ),
        "world-promptist": Rewriter(
            "world-promptist", str(MICRO_REWRITERS / "world-promptist"), "{prompt},", continues=True,
            new_tokens=24, trained_on=("world-aesthetic", "world-pick", "world-hps", "world-clip"),
            source="`tcbench reproduce world-table`: its rewriter's first seed, in half precision",
        ),
    }
)  # fmt: skip


def rewrite_prompts(
    rewriter: Rewriter,
    folder: Path,
    prompts: Sequence[Prompt],
    file: Path,
    *,
    seed: int,
    device: str,
    progress: Progress,
) -> dict[int, str]:
    """Rewrite prompts that ``file`` does not have yet, and append them to it.

    Args:
        rewriter: The rewriter.
        folder: Folder of its language model.
        prompts: The prompts.
        file: JSON lines of finished rewrites; it may not exist.
        seed: Base seed of the sampled tokens.
        device: Device of the language model.
        progress: Receives the number of rewritten prompts.

    Returns:
        The rewrites of all prompts by prompt id.
    """
    rewrites = {int(row["prompt_id"]): str(row["text"]) for row in read_lines(file)}
    todo = [prompt for prompt in prompts if prompt.id not in rewrites]
    progress.stage("rewriting prompts", len(prompts), len(prompts) - len(todo))
    if not todo:
        return rewrites
    model = RewriterModel(rewriter, folder, device)
    for start in range(0, len(todo), BATCH):
        part = todo[start : start + BATCH]
        seeds = [noise_seed(seed, prompt.id, 0) for prompt in part]
        texts = model.rewrite([prompt.text for prompt in part], seeds).texts
        rows = [
            {"prompt_id": prompt.id, "prompt": prompt.text, "text": text}
            for prompt, text in zip(part, texts, strict=True)
        ]
        append_lines(file, rows)
        rewrites |= {prompt.id: text for prompt, text in zip(part, texts, strict=True)}
        progress.advance(len(part))
    return rewrites


@dataclass(frozen=True)
class Rewrites:
    """Rewrites of B prompts, with the language model's token ids."""

    texts: Sequence[str]
    """The rewritten prompts."""
    questions: Sequence[Sequence[int]]
    """Token ids of the model's input."""
    answers: Sequence[Sequence[int]]
    """Token ids of its output, the end token included."""

    @classmethod
    def join(cls, parts: Sequence[Rewrites]) -> Rewrites:
        """Concatenate the rewrites of several batches."""
        return cls(
            [text for part in parts for text in part.texts],
            [ids for part in parts for ids in part.questions],
            [ids for part in parts for ids in part.answers],
        )

    def rows(self, rows: Sequence[int]) -> Rewrites:
        """Return some of the rewrites."""
        return Rewrites(
            [self.texts[row] for row in rows],
            [self.questions[row] for row in rows],
            [self.answers[row] for row in rows],
        )


class RewriterModel:
    """A rewriter's language model, loaded.

    Raises:
        ConfigError: If the folder does not hold a causal language model.
    """

    def __init__(self, rewriter: Rewriter, folder: Path, device: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.rewriter, self.device = rewriter, device
        try:
            with quiet("transformers"):
                self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
                self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{folder} is not a causal language model: {first_line(error)}") from error
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model.to(device).eval()

    def with_decoding(self, rewriter: Rewriter) -> RewriterModel:
        """Return the same loaded model with the template and decoding of ``rewriter``."""
        other = copy.copy(self)
        other.rewriter = rewriter
        return other

    def rewrite(self, prompts: Sequence[str], seeds: Sequence[int]) -> Rewrites:
        """Rewrite B prompts; a prompt with an empty rewrite is returned unchanged.

        Args:
            prompts: B prompts.
            seeds: Seeds (B,) of the sampled tokens.
        """
        import torch

        rewriter = self.rewriter
        # the penalty would count the padding of longer prompts as repeated tokens
        if rewriter.repetition_penalty != 1 and len(prompts) > 1:
            pairs = zip(prompts, seeds, strict=True)
            return Rewrites.join([self.rewrite([prompt], [seed]) for prompt, seed in pairs])
        inputs = self.tokenizer(self.questions(prompts), return_tensors="pt", padding=True).to(self.device)
        self._check_length(inputs["input_ids"].shape[1])
        with torch.inference_mode():
            tokens = self.model.generate(
                **inputs,
                max_new_tokens=rewriter.new_tokens,
                do_sample=False,
                num_beams=rewriter.beams,
                length_penalty=rewriter.length_penalty,
                logits_processor=self._processors(seeds),
                pad_token_id=self.tokenizer.pad_token_id,
            )
        width = inputs["input_ids"].shape[1]
        outputs = self.tokenizer.batch_decode(tokens[:, width:], skip_special_tokens=True)
        masks = inputs["attention_mask"].bool()
        return Rewrites(
            [self._result(*pair) for pair in zip(prompts, outputs, strict=True)],
            [ids[mask].tolist() for ids, mask in zip(inputs["input_ids"], masks, strict=True)],
            [self._until_end(row) for row in tokens[:, width:].tolist()],
        )

    def questions(self, prompts: Sequence[str]) -> list[str]:
        """Return the model's input for each prompt."""
        return [self.rewriter.template.replace("{prompt}", prompt) for prompt in prompts]

    def _check_length(self, tokens: int) -> None:
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if limit and tokens + self.rewriter.new_tokens > limit:
            raise ConfigError(
                f"a prompt has {tokens} tokens for rewriter {self.rewriter.name}; with its "
                f"{self.rewriter.new_tokens} new tokens that exceeds the model's {limit} positions; shorten "
                "the prompt or lower new_tokens"
            )

    def _until_end(self, ids: Sequence[int]) -> list[int]:
        """Return the ids up to the first end token, which is included; padding follows it."""
        end = self.tokenizer.eos_token_id
        return list(ids[: ids.index(end) + 1] if end in ids else ids)

    def _processors(self, seeds: Sequence[int]) -> Any:
        """Return the decoding as logits processors.

        Sampling is a greedy choice after Gumbel noise is added (the Gumbel-max trick), so that each prompt
        has a random generator of its own and its rewrite does not depend on the batch.
        """
        from transformers import (
            LogitsProcessorList,
            RepetitionPenaltyLogitsProcessor,
            TemperatureLogitsWarper,
            TopKLogitsWarper,
            TopPLogitsWarper,
        )

        rewriter, processors = self.rewriter, LogitsProcessorList()
        if rewriter.repetition_penalty != 1:
            processors.append(RepetitionPenaltyLogitsProcessor(rewriter.repetition_penalty))
        if rewriter.beams > 1:
            return processors
        if rewriter.temperature != 1:
            processors.append(TemperatureLogitsWarper(rewriter.temperature))
        if rewriter.top_k:
            processors.append(TopKLogitsWarper(rewriter.top_k))
        if rewriter.top_p < 1:
            processors.append(TopPLogitsWarper(rewriter.top_p))
        processors.append(_gumbel(seeds))
        return processors

    def _result(self, prompt: str, output: str) -> str:
        text = canonical((output.strip().splitlines() or [""])[0])
        if not text:
            return prompt
        return canonical(f"{self.questions([prompt])[0]} {text}") if self.rewriter.continues else text


def _gumbel(seeds: Sequence[int]) -> Any:
    """Return a logits processor that adds standard Gumbel noise, one random generator per row."""
    import torch
    from transformers import LogitsProcessor

    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]

    class Gumbel(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            rows = [torch.rand(scores.shape[1], generator=g, dtype=torch.float64) for g in generators]
            noise = -torch.log(-torch.log(torch.stack(rows)))
            return scores + noise.to(scores)

    return Gumbel()
