"""Prompt rewriting by language models, on a tiny GPT-2 with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.execution import execute_plan
from benchmarks.planning import Request, plan_run
from leaderboards.run_state import RunState
from tcbench.errors import (
    ConfigError,
    MissingFiles,  # fmt: skip
    UnknownName,
)
from tcbench.files import read_lines
from tcbench.progress import Silent
from textcraftor.diffusion.prompts import Prompt
from textcraftor.rewriters import REWRITERS, REWRITES_FILE, Rewriter, rewrite_prompts

WORDS = [
    "a",
    "red",
    "blue",
    "large",
    "circle",
    "star",
    "vivid",
    "vibrant",
    "shaded",
    "glossy",
    ",",
    "Rephrase:",
    "on",
    "green",
]

PROMPTS = [Prompt(0, "a red circle"), Prompt(1, "a large blue star on green"), Prompt(2, "a star")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a language model, its tokenizer, and rewriter.toml."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny-writer"
    vocabulary = {word: number for number, word in enumerate(["<end>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unk>").save_pretrained(
        folder
    )
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(vocabulary),
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    (folder / "rewriter.toml").write_text('template = "{prompt} Rephrase:"\nnew_tokens = 6\n')
    return folder


def texts(
    rewriter: Rewriter, model: Path, kept: Path, prompts: list[Prompt] = PROMPTS, seed: int = 0
) -> dict[int, str]:
    return rewrite_prompts(rewriter, model, prompts, kept, seed=seed, device="cpu", progress=Silent())


def test_rewriter_settings_are_read_from_a_folder(model: Path, tmp_path: Path) -> None:
    rewriter = Rewriter.find(str(model))
    assert (rewriter.name, rewriter.template, rewriter.new_tokens) == ("tiny-writer", "{prompt} Rephrase:", 6)
    rewrites = texts(rewriter, model, tmp_path / REWRITES_FILE)
    assert all(0 < len(text.split()) <= 6 for text in rewrites.values())
    assert len(set(rewrites.values())) == 3
    rows = list(read_lines(tmp_path / REWRITES_FILE))
    assert [(row["prompt"], row["text"]) for row in rows] == [(p.text, rewrites[p.id]) for p in PROMPTS]


def test_rewrite_depends_on_prompt_and_seed_only(model: Path, tmp_path: Path) -> None:
    penalised = replace(Rewriter.find(str(model)), repetition_penalty=1.3)
    pair = (
        texts(penalised, model, tmp_path / name, part) for name, part in (("x", PROMPTS), ("y", PROMPTS[2:]))
    )
    assert [rewrites[2] for rewrites in pair] == [texts(penalised, model, tmp_path / "x")[2]] * 2
    rewriter = Rewriter.find(str(model))
    together = texts(rewriter, model, tmp_path / "together")
    alone = texts(rewriter, model, tmp_path / "alone", PROMPTS[1:2])
    assert alone[1] == together[1]
    assert texts(rewriter, model, tmp_path / "other", seed=1) != together
    (tmp_path / "some").write_text('{"prompt_id": 2, "text": "kept as it was"}\n')
    assert texts(rewriter, model, tmp_path / "some") == together | {2: "kept as it was"}


def test_sampled_tokens_have_the_models_probabilities(model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rewriter = replace(Rewriter.find(str(model)), new_tokens=1, template="{prompt}", top_k=3)
    prompts = [Prompt(number, "a red circle") for number in range(600)]
    sampled = list(texts(rewriter, model, tmp_path / REWRITES_FILE, prompts).values())
    tokenizer = AutoTokenizer.from_pretrained(model)
    logits = AutoModelForCausalLM.from_pretrained(model)(
        **tokenizer("a red circle", return_tensors="pt")
    ).logits
    top = logits[0, -1].topk(3)
    expected = top.values.softmax(dim=0).tolist()
    names = [tokenizer.decode([number]) for number in top.indices.tolist()]
    shares = [sampled.count(name) / len(sampled) for name in names]
    known = [(share, p) for share, p, name in zip(shares, expected, names, strict=True) if name in WORDS]
    assert len(known) >= 2
    assert all(abs(share - p) < 0.07 for share, p in known)


def test_beam_search_is_deterministic_and_continuations_keep_the_prompt(model: Path, tmp_path: Path) -> None:
    search = replace(Rewriter.find(str(model)), beams=3, length_penalty=-1.0)
    first, second = (texts(search, model, tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 1)))
    assert first == second
    rewrites = texts(
        replace(Rewriter.find(str(model)), template="{prompt} ,", continues=True), model, tmp_path / "c"
    )
    assert all(rewrites[prompt.id].startswith(f"{prompt.text} ,") for prompt in PROMPTS)


def test_run_generates_from_the_rewrite_and_scores_the_original(
    model: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    system = tmp_path / "system.toml"
    system.write_text(f'name = "written"\npipeline = "{tiny_pipeline}"\nrewriter = "{model}"\nsteps = 2\n')
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(prompt.text for prompt in PROMPTS))
    request = Request(
        str(system), prompts=prompts, rewards=["world-rule"], device="cpu", out=tmp_path / "runs"
    )
    outcome = execute_plan(plan_run(request), Silent())
    run = RunState(outcome.path)
    rewritten = texts(Rewriter.find(str(model)), model, run.path / REWRITES_FILE)
    samples = run.samples
    assert [samples[p.id, 0].prompt for p in PROMPTS] == [p.text for p in PROMPTS]
    assert [samples[p.id, 0].text for p in PROMPTS] == [rewritten[p.id] for p in PROMPTS]
    assert run.header.generation["rewriter"] == Rewriter.find(str(model)).generation_settings(model)
    plain = replace(request, model=str(tiny_pipeline))
    assert plan_run(plain).header.generation_id != run.header.generation_id


def test_published_rewriters_use_their_authors_templates() -> None:
    inputs = {name: rewriter.template.replace("{prompt}", "a cat") for name, rewriter in REWRITERS.items()}
    assert inputs["prompt-extend"] == "a cat,"
    assert inputs["promptist"] == "a cat Rephrase:"
    assert inputs["beautiful-prompt"].splitlines()[1:] == ["Input: a cat", "Output:"]
    assert [name for name, rewriter in REWRITERS.items() if rewriter.continues] == [
        "prompt-extend",
        "world-extend",
        "world-promptist",
    ]


def test_invalid_rewriters_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="promptist"):
        Rewriter.find("promptits")
    with pytest.raises(MissingFiles, match="rewriter promptist needs microsoft/Promptist: not in the hub"):
        Rewriter.find("promptist").find_model()
    with pytest.raises(ConfigError, match=r"does not contain \{prompt\}"):
        Rewriter("x", "x", "Rephrase:")
    (tmp_path / "rewriter.toml").write_text("beans = 3\n")
    with pytest.raises(UnknownName, match="beams"):
        Rewriter.find(str(tmp_path))
    (tmp_path / "rewriter.toml").write_text('beams = "3"\n')
    with pytest.raises(ConfigError, match="beams = '3'; expected a whole number"):
        Rewriter.find(str(tmp_path))
    (tmp_path / "rewriter.toml").write_text("")
    with pytest.raises(ConfigError, match="is not a causal language model"):
        texts(Rewriter.find(str(tmp_path)), tmp_path, tmp_path / REWRITES_FILE)


def test_rewriter_with_any_text_is_written_and_read(tmp_path: Path) -> None:
    rewriter = Rewriter(tmp_path.name, str(tmp_path), "🎨 {prompt}\n:", trained_on=("clip",))
    rewriter.write(tmp_path)
    assert Rewriter.find(str(tmp_path)) == rewriter
