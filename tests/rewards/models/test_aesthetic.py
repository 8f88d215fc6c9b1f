from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rewards
from rewards.backbones.head import ScoreHead
from rewards.base import Reward
from rewards.builtin import BUILTIN
from rewards.info import LicenceNotAccepted
from rewards.models.aesthetic import LaionAestheticV1, LaionAestheticV2
from rewards.verification.tiny.checkpoints import tiny_record
from rewards.weights.lock import WeightsLock
from rewards.weights.tensors import load_state, read_tensors
from tcbench.errors import MissingFiles


@pytest.fixture
def embeddings(shared_data: Path) -> Tensor:
    """Unit CLIP ViT-L/14 embeddings (10, 768) of ten images, sorted by rating, the worst first."""
    folder = shared_data / "golden/laion_embeddings_vit_l_14"
    arrays = [np.load(folder / f"rating{i}.npy").reshape(-1) for i in range(10)]
    return torch.from_numpy(np.stack(arrays)).float()


@pytest.fixture
def expected(shared_data: Path) -> Any:
    return json.loads((shared_data / "golden/expected.json").read_text(encoding="utf-8"))


def published(shared_data: Path, name: str) -> Path:
    """Path of the head, whose sha256 must be the published one."""
    (head,) = (file for file in BUILTIN[name].weights if file.key == "head")
    path = shared_data / "weights/laion_aesthetic" / head.file
    assert WeightsLock().sha256(path) == head.sha256
    return path


def test_published_v2_head_gives_known_scores(shared_data: Path, embeddings: Tensor, expected: Any) -> None:
    path = published(shared_data, "aesthetic-v2")
    head = ScoreHead(768).eval()
    load_state(head, read_tensors(path), path)
    golden = expected["laion_v2_on_rating_embeddings"]
    assert head(embeddings).tolist() == pytest.approx(golden["scores"], abs=golden["tolerance"])


def test_published_v1_head_gives_known_scores(shared_data: Path, embeddings: Tensor, expected: Any) -> None:
    path = published(shared_data, "aesthetic-v1")
    head = nn.Linear(768, 1)
    load_state(head, read_tensors(path), path)
    golden = expected["laion_v1_on_rating_embeddings"]
    scores = head(embeddings)[:, 0].tolist()
    assert [scores[0], scores[-1]] == pytest.approx(
        [golden["first"], golden["last"]], abs=golden["tolerance"]
    )


@pytest.mark.parametrize(
    ("name", "kind"), [("aesthetic-v1", LaionAestheticV1), ("world-aesthetic", LaionAestheticV2)]
)
def test_score_is_the_head_of_the_unit_embedding(
    tiny: Callable[[str], Reward], name: str, kind: type[LaionAestheticV1 | LaionAestheticV2]
) -> None:
    reward = tiny(name)
    assert isinstance(reward, kind)
    size = reward.profile.size
    pixels = torch.rand(2, 3, size, size)
    features = F.normalize(reward.towers.model.encode_image(pixels), dim=-1)
    torch.testing.assert_close(reward._score(pixels, []), reward.head(features).reshape(2))


def test_version_2_5_is_five_affine_layers_on_the_unit_pooled_embedding(
    tiny_files: Callable[[str], dict[str, Path]],
) -> None:
    from transformers import SiglipVisionModel

    files = tiny_files("aesthetic-v2.5")
    reward = rewards.load(tiny_record(rewards.info("aesthetic-v2.5")), weights=files)
    eyes = SiglipVisionModel.from_pretrained(files["model"]).eval()
    state = torch.load(files["head"], weights_only=True)
    torch.manual_seed(0)
    pixels = torch.rand(2, 3, 100, 150)
    (seen,) = reward.pixels(pixels)
    with torch.no_grad():
        x = eyes(pixel_values=seen).pooler_output
        x = x / x.norm(dim=-1, keepdim=True)
        for number in (0, 2, 4, 6, 8):
            x = x @ state[f"scoring_head.{number}.weight"].T + state[f"scoring_head.{number}.bias"]
    torch.testing.assert_close(reward.score(pixels), x[:, 0], rtol=1e-4, atol=1e-5)


def test_version_2_5_requires_accepting_its_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TCBENCH_ACCEPT_LICENCES", raising=False)
    with pytest.raises(LicenceNotAccepted, match=r"set TCBENCH_ACCEPT_LICENCES=AGPL-3\.0"):
        rewards.load("aesthetic-v2.5")
    monkeypatch.setenv("TCBENCH_ACCEPT_LICENCES", "GPL-3.0, AGPL-3.0")
    with pytest.raises(MissingFiles):
        rewards.load("aesthetic-v2.5")
