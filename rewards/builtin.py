"""The records of the rewards that come with the package: a literal table, free of torch.

Roles: a run may train on "trainable" rewards, choose checkpoints by "selection" rewards, and only report
"judge" rewards.
"""

from __future__ import annotations

from dataclasses import replace

from rewards.info import RewardInfo, WeightsFile

OPEN_CLIP_FILES = ("open_clip_config.json", "open_clip_model.safetensors")
TRANSFORMERS_FILES = ("config.json", "model.safetensors")
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")

VIT_L_14 = WeightsFile(
    "backbone",
    patterns=OPEN_CLIP_FILES,
    hub="timm/vit_large_patch14_clip_224.openai",
    megabytes=1711,
)
VIT_B_32 = replace(VIT_L_14, hub="timm/vit_base_patch32_clip_224.openai", megabytes=605)

IMPROVED_AESTHETICS = "https://github.com/christophschuhmann/improved-aesthetic-predictor"
AESTHETICS = "https://github.com/LAION-AI/aesthetic-predictor"
AESTHETICS_V25 = "https://github.com/discus0434/aesthetic-predictor-v2-5"
HPS = "https://arxiv.org/abs/2306.09341"
CLIPSCORE = "https://arxiv.org/abs/2104.08718"
IMAGE_REWARD = "https://arxiv.org/abs/2304.05977"
WORLD_LICENCE = "Apache-2.0"
WORLD_REPORT = "docs/world/report.md"

HPS_CITATION = "Wu et al. 2023, Human Preference Score v2"
CLIPSCORE_CITATION = "Hessel et al. 2021, CLIPScore: A Reference-free Evaluation Metric for Image Captioning"
PICK_CITATION = "Kirstain et al. 2023, Pick-a-Pic"
IMAGE_REWARD_CITATION = "Xu et al. 2023, ImageReward"
AESTHETICS_CITATION = "Schuhmann et al. 2022, LAION-5B, section on aesthetic subsets"


def _world(folder: str, key: str, patterns: tuple[str, ...]) -> WeightsFile:
    return WeightsFile(key, patterns=patterns, package=f"world/weights/{folder}")


def _world_file(path: str, key: str) -> WeightsFile:
    return WeightsFile(key, file=path.rpartition("/")[2], package=f"world/weights/{path}")


WORLD_TOKENIZER = _world("tokenizer", "tokenizer", TOKENIZER_FILES)
ORACLE_EYES = ("world/vision.py", "world/render.py", "world/scenes.py")
"""What the oracle sees with: it knows the renderer's colours and outlines."""

WORLD_CLIP = _world("world-clip", "backbone", OPEN_CLIP_FILES)

AESTHETIC_V2 = RewardInfo(
    name="aesthetic-v2",
    entry="rewards.aesthetic:LaionAestheticV2",
    uses_prompt=False,
    family="clip",
    profile="clip-224",
    scale="predicted rating by people, 1 to 10",
    typical_range=(1, 10),
    weights=(
        VIT_L_14,
        WeightsFile(
            "head",
            file="sac+logos+ava1-l14-linearMSE.pth",
            url=f"{IMPROVED_AESTHETICS}/raw/6934dd81/sac+logos+ava1-l14-linearMSE.pth",
            sha256="21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
            megabytes=3.7,
        ),
    ),
    paper=IMPROVED_AESTHETICS,
    citation=AESTHETICS_CITATION,
    licence="Apache-2.0",
)

AESTHETIC_V1 = replace(
    AESTHETIC_V2,
    name="aesthetic-v1",
    entry="rewards.aesthetic:LaionAestheticV1",
    weights=(
        VIT_L_14,
        WeightsFile(
            "head",
            file="sa_0_4_vit_l_14_linear.pth",
            url=f"{AESTHETICS}/raw/6d122ada/sa_0_4_vit_l_14_linear.pth",
            sha256="2cd4e60f4f24ae3bcd57b847b13c1f3ba27edc28cc1a7f9ce74ee9f421243cba",
            megabytes=0.004,
        ),
    ),
    paper=AESTHETICS,
    licence="MIT",
)

AESTHETIC_V25 = replace(
    AESTHETIC_V2,
    name="aesthetic-v2.5",
    entry="rewards.aesthetic:AestheticV25",
    family="siglip",
    profile="siglip-384",
    scale="predicted rating, 1 to 10; above 5.5 is great",
    weights=(
        WeightsFile(
            "model",
            patterns=TRANSFORMERS_FILES,
            hub="google/siglip-so400m-patch14-384",
            megabytes=3511,
        ),
        WeightsFile(
            "head",
            file="aesthetic_predictor_v2_5.pth",
            url=f"{AESTHETICS_V25}/raw/3125a9e1/models/aesthetic_predictor_v2_5.pth",
            megabytes=5.4,
        ),
    ),
    paper=AESTHETICS_V25,
    citation="discus0434 2024, Aesthetic Predictor V2.5",
    licence="AGPL-3.0",
    consent="AGPL-3.0",
)

CLIP_IQA = RewardInfo(
    name="clip-iqa",
    entry="rewards.clipiqa:ClipIqa",
    uses_prompt=False,
    family="clip",
    profile="clip-native",
    scale="probability of a good photo rather than a bad one",
    weights=(replace(VIT_L_14, hub="timm/resnet50_clip.openai", megabytes=409),),
    paper="https://arxiv.org/abs/2207.12396",
    citation="Wang et al. 2023, Exploring CLIP for Assessing the Look and Feel of Images",
    licence="MIT",
)

JPEG = RewardInfo(
    name="jpeg-incompressibility",
    entry="rewards.jpeg:JpegSize",
    differentiable=False,
    uses_prompt=False,
    family="jpeg",
    scale="kilobytes as JPEG of quality 95",
    typical_range=(0, 500),
    options={"sign": 1},
    paper="https://arxiv.org/abs/2305.13301",
    citation="Black et al. 2023, Training Diffusion Models with Reinforcement Learning",
    licence="Apache-2.0",
)

JPEG_SMALL = replace(
    JPEG,
    name="jpeg-compressibility",
    scale="minus kilobytes as JPEG of quality 95",
    typical_range=(-500, 0),
    options={"sign": -1},
)

CLIP = RewardInfo(
    name="clip",
    entry="rewards.clipscore:ClipScore",
    family="clip",
    profile="clip-224",
    scale="100 x cosine, the convention of torchmetrics and of most tables",
    typical_range=(10, 40),
    weights=(VIT_L_14,),
    options={"convention": "torchmetrics"},
    paper=CLIPSCORE,
    citation=CLIPSCORE_CITATION,
    licence="MIT",
)

CLIP_HESSEL = replace(
    CLIP,
    name="clip-hessel",
    scale='2.5 x max(cosine, 0) of "A photo depicts " + prompt, as in the paper',
    typical_range=(0, 1),
    weights=(VIT_B_32,),
    options={"convention": "hessel"},
)

CLIP_LOGITS = replace(
    CLIP, name="clip-logits", scale="cosine x the model's logit scale (100)", options={"convention": "logits"}
)

CLIP_COSINE = replace(
    CLIP, name="clip-cosine", scale="cosine", typical_range=(0.1, 0.4), options={"convention": "cosine"}
)

PICKSCORE = RewardInfo(
    name="pickscore",
    entry="rewards.pickscore:PickScore",
    family="pickscore",
    profile="clip-224-floor",
    scale="cosine x logit scale; a difference of 1 is picked 73 % of the time",
    typical_range=(16, 26),
    weights=(
        WeightsFile(
            "model",
            patterns=TRANSFORMERS_FILES,
            hub="yuvalkirstain/PickScore_v1",
            revision="a4e4367c6dfa7288a00c550414478f865b875800",
            megabytes=3945,
        ),
        WeightsFile(
            "tokenizer",
            patterns=TOKENIZER_FILES,
            hub="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
            revision="1c2b8495b28150b8a4922ee1c8edee224c284c0c",
            megabytes=1.4,
        ),
    ),
    paper="https://arxiv.org/abs/2305.01569",
    citation=PICK_CITATION,
    licence="MIT",
)

HPSV2 = RewardInfo(
    name="hpsv2",
    entry="rewards.hpsv2:HPSv2",
    family="hps",
    profile="hps-224",
    scale="cosine; tables print it x 100",
    typical_range=(0.2, 0.32),
    weights=(
        WeightsFile(
            "checkpoint",
            file="HPS_v2_compressed.pt",
            hub="xswu/HPSv2",
            revision="697403c78157020a1ae59d23f111aa58ced35b0a",
            megabytes=1972,
        ),
    ),
    options={"architecture": "ViT-H-14"},
    paper=HPS,
    citation=HPS_CITATION,
    licence="Apache-2.0",
)

HPSV2_1 = replace(
    HPSV2,
    name="hpsv2.1",
    typical_range=(0.12, 0.36),
    weights=(
        replace(
            HPSV2.weights[0],
            file="HPS_v2.1_compressed.pt",
            sha256="c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837",
        ),
    ),
)

IMAGEREWARD = RewardInfo(
    name="imagereward",
    entry="rewards.imagereward:ImageReward",
    family="blip",
    profile="clip-224",
    scale="standardised: mean 0 and deviation 1 over the paper's pictures",
    typical_range=(-2, 2),
    weights=(
        WeightsFile(
            "checkpoint",
            file="ImageReward.pt",
            hub="zai-org/ImageReward",
            revision="5736be03b2652728fb87788c9797b0570450ab72",
            megabytes=1787,
        ),
        WeightsFile(
            "vocabulary",
            file="vocab.txt",
            hub="google-bert/bert-base-uncased",
            revision="86b5e0934494bd15c9632b12f734a8a67f723594",
            sha256="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            megabytes=0.2,
        ),
    ),
    paper=IMAGE_REWARD,
    citation=IMAGE_REWARD_CITATION,
    licence="Apache-2.0",
)

WORLD_REWARDS = (
    replace(
        CLIP,
        name="world-clip",
        family="world-clip",
        profile="clip-64",
        scale="100 x cosine",
        typical_range=(-20, 100),
        weights=(WORLD_CLIP, WORLD_TOKENIZER),
        licence=WORLD_LICENCE,
    ),
    replace(
        AESTHETIC_V2,
        name="world-aesthetic",
        family="world-clip",
        profile="clip-64",
        scale="predicted value of the world's aesthetic rule",
        weights=(WORLD_CLIP, WORLD_TOKENIZER, _world_file("world-aesthetic/head.safetensors", "head")),
        licence=WORLD_LICENCE,
    ),
    replace(
        PICKSCORE,
        name="world-pick",
        family="world-clip",
        profile="clip-64",
        scale="cosine x logit scale",
        typical_range=(-20, 100),
        weights=(_world("world-pick", "model", TRANSFORMERS_FILES), WORLD_TOKENIZER),
        licence=WORLD_LICENCE,
    ),
    replace(
        HPSV2,
        name="world-hps",
        family="world-clip",
        profile="hps-64",
        scale="cosine",
        typical_range=(-1, 1),
        weights=(_world("world-hps", "backbone", OPEN_CLIP_FILES), WORLD_TOKENIZER),
        options={},
        licence=WORLD_LICENCE,
    ),
    RewardInfo(
        name="world-siglip",
        entry="rewards.siglip:SiglipScore",
        role="selection",
        family="world-siglip",
        profile="siglip-64",
        scale="logit that image and text belong together",
        typical_range=(-20, 20),
        weights=(_world("world-siglip", "model", TRANSFORMERS_FILES), WORLD_TOKENIZER),
        paper="https://arxiv.org/abs/2303.15343",
        citation="Zhai et al. 2023, Sigmoid Loss for Language Image Pre-Training",
        licence=WORLD_LICENCE,
    ),
    replace(
        IMAGEREWARD,
        name="world-blip",
        role="judge",
        family="world-blip",
        profile="clip-64",
        scale="standardised",
        weights=(
            _world_file("world-blip/config.json", "config"),
            _world_file("world-blip/vocab.txt", "vocabulary"),
            _world_file("world-blip/model.safetensors", "checkpoint"),
        ),
        licence=WORLD_LICENCE,
    ),
    RewardInfo(
        name="world-rule",
        entry="rewards.world.rule:WorldRule",
        differentiable=False,
        uses_prompt=False,
        role="judge",
        family="world-rule",
        profile="squash-64",
        scale="the world's aesthetic rule: colour, sharpness, glow, composition, less noise and clipping",
        code=("world/aesthetics.py", *ORACLE_EYES),
        typical_range=(1, 10),
        paper=WORLD_REPORT,
        citation="the embedded world of this package",
        licence=WORLD_LICENCE,
    ),
    RewardInfo(
        name="world-oracle",
        entry="rewards.world.oracle:WorldOracle",
        differentiable=False,
        role="judge",
        family="world-oracle",
        profile="squash-64",
        scale="share of the prompt's claims that image analysis finds true",
        code=("world/claims.py", "world/captions.py", *ORACLE_EYES),
        typical_range=(0, 1),
        paper=WORLD_REPORT,
        citation="the embedded world of this package",
        licence=WORLD_LICENCE,
    ),
)

BUILTIN = {
    record.name: record
    for record in (
        AESTHETIC_V1,
        AESTHETIC_V2,
        AESTHETIC_V25,
        CLIP,
        CLIP_HESSEL,
        CLIP_LOGITS,
        CLIP_COSINE,
        CLIP_IQA,
        PICKSCORE,
        HPSV2,
        replace(HPSV2, name="hpsv2-antialias", profile="hps-224-antialias"),
        HPSV2_1,
        replace(HPSV2_1, name="hpsv2.1-antialias", profile="hps-224-antialias"),
        IMAGEREWARD,
        JPEG_SMALL,
        JPEG,
        *WORLD_REWARDS,
    )
}
