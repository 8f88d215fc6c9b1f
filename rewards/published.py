"""Records of published rewards, in the order in which they are listed. Free of torch."""

from __future__ import annotations

from dataclasses import replace

from rewards.info import RewardInfo, WeightsFile

OPEN_CLIP_FILES = ("open_clip_config.json", "open_clip_model.safetensors")
TRANSFORMERS_FILES = ("config.json", "model.safetensors")
QWEN_FILES = ("config.json", "vocab.json", "merges.txt", "tokenizer_config.json")
CLIP_FLANT5_FILES = ("config.json", "pytorch_model*")
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
SAVED_MODEL_FILES = (
    TRANSFORMERS_FILES,
    ("config.json", "model.safetensors.index.json", "model-*.safetensors"),
)
"""What today's transformers saves in place of published .bin files; a local copy may have either."""
SAVED_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
"""What transformers 5 saves in place of vocabulary and merges; a local copy may have either."""

VIT_L_14 = WeightsFile(
    "backbone",
    patterns=OPEN_CLIP_FILES,
    hub="timm/vit_large_patch14_clip_224.openai",
    megabytes=1711,
    quick_gelu=True,
)
VIT_B_32 = replace(VIT_L_14, hub="timm/vit_base_patch32_clip_224.openai", megabytes=605)
CLIP_336_SIZES = WeightsFile(
    "tower",
    file="config.json",
    hub="openai/clip-vit-large-patch14-336",
    revision="ce19dc912ca5cd21c8a653c79e251e808ccabcd1",
    megabytes=0.005,
)
"""Configuration of a CLIP whose weights are part of the CLIP-FlanT5 checkpoints."""
SO400M = WeightsFile(
    "model",
    patterns=TRANSFORMERS_FILES,
    hub="google/siglip-so400m-patch14-384",
    revision="9fdffc58afc957d1a03a25b10dba0329ab15c2a3",
    megabytes=3511,
)
SO400M_2 = replace(
    SO400M,
    hub="google/siglip2-so400m-patch14-384",
    revision="e8e487298228002f3d8a82e0cd5c8ea9c567f57f",
    megabytes=4544,
)

IMPROVED_AESTHETICS = "https://github.com/christophschuhmann/improved-aesthetic-predictor"
AESTHETICS = "https://github.com/LAION-AI/aesthetic-predictor"
AESTHETICS_V25 = "https://github.com/discus0434/aesthetic-predictor-v2-5"
HPS = "https://arxiv.org/abs/2306.09341"
HPSV3_PAPER = "https://arxiv.org/abs/2508.03789"
CLIPSCORE = "https://arxiv.org/abs/2104.08718"
SIGMOID = "https://arxiv.org/abs/2303.15343"
IMAGE_REWARD = "https://arxiv.org/abs/2304.05977"
MPS_PAPER = "https://arxiv.org/abs/2405.14705"
HPS_CITATION = "Wu et al. 2023, Human Preference Score v2"
CLIPSCORE_CITATION = "Hessel et al. 2021, CLIPScore: A Reference-free Evaluation Metric for Image Captioning"
SIGLIP_CITATION = "Zhai et al. 2023, Sigmoid Loss for Language Image Pre-Training"
PICK_CITATION = "Kirstain et al. 2023, Pick-a-Pic"
IMAGE_REWARD_CITATION = "Xu et al. 2023, ImageReward"
AESTHETICS_CITATION = "Schuhmann et al. 2022, LAION-5B, section on aesthetic subsets"


AESTHETIC_V2 = RewardInfo(
    name="aesthetic-v2",
    entry="rewards.models.aesthetic:LaionAestheticV2",
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
    entry="rewards.models.aesthetic:LaionAestheticV1",
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
    entry="rewards.models.aesthetic:AestheticV25",
    family="siglip",
    profile="siglip-384",
    scale="predicted rating, 1 to 10; above 5.5 is great",
    weights=(
        SO400M,
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
    entry="rewards.models.clipiqa:ClipIqa",
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
    entry="rewards.models.jpeg:JpegSize",
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
    entry="rewards.models.clipscore:ClipScore",
    family="clip",
    profile="clip-224",
    scale="100 x cosine, torchmetrics' scale with open_clip's preprocessing and text cleaning",
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

SIGLIP = RewardInfo(
    name="siglip",
    entry="rewards.models.siglip:SiglipScore",
    family="siglip",
    profile="siglip-384",
    scale="logit that image and text belong together; its sigmoid is the probability",
    typical_range=(-16, 6),
    weights=(
        SO400M,
        WeightsFile(
            "tokenizer",
            patterns=("spiece.model", "tokenizer_config.json"),
            hub=SO400M.hub,
            revision=SO400M.revision,
            megabytes=0.8,
        ),
    ),
    paper=SIGMOID,
    citation=SIGLIP_CITATION,
    licence="Apache-2.0",
)

SIGLIP_2 = replace(
    SIGLIP,
    name="siglip2",
    profile="siglip2-384",
    weights=(
        SO400M_2,
        WeightsFile(
            "tokenizer",
            patterns=("tokenizer.json", "tokenizer_config.json"),
            hub=SO400M_2.hub,
            revision=SO400M_2.revision,
            megabytes=34,
        ),
    ),
    paper="https://arxiv.org/abs/2502.14786",
    citation="Tschannen et al. 2025, SigLIP 2: Multilingual Vision-Language Encoders",
)

PICKSCORE = RewardInfo(
    name="pickscore",
    entry="rewards.models.pickscore:PickScore",
    family="clip",
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
            layouts=(SAVED_TOKENIZER_FILES,),
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
    entry="rewards.models.hpsv2:HPSv2",
    family="clip",
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

HPSV2_ANTIALIAS = replace(HPSV2, name="hpsv2-antialias", profile="hps-224-antialias")
HPSV2_1_ANTIALIAS = replace(HPSV2_1, name="hpsv2.1-antialias", profile="hps-224-antialias")

MPS = RewardInfo(
    name="mps",
    entry="rewards.models.mps:Mps",
    family="clip",
    profile="clip-224-floor",
    scale="cosine x logit scale, for the condition of overall quality",
    typical_range=(0, 20),
    weights=(
        WeightsFile("checkpoint", file="model.safetensors", hub="RE-N-Y/mpsv1", megabytes=4419),
        replace(
            PICKSCORE.weights[1], key="config", file="config.json", patterns=(), layouts=(), megabytes=0.005
        ),
        PICKSCORE.weights[1],
    ),
    paper=MPS_PAPER,
    citation="Zhang et al. 2024, Learning Multi-dimensional Human Preference for Text-to-Image Generation",
    licence="none stated",
)

HPSV3 = RewardInfo(
    name="hpsv3",
    entry="rewards.models.hpsv3:Hpsv3",
    family="hpsv3",
    profile="qwen-448",
    scale="unbounded; models of the paper average from about 0 to 11",
    typical_range=(-5, 15),
    weights=(
        WeightsFile(
            "checkpoint",
            file="HPSv3.safetensors",
            hub="MizzenAI/HPSv3",
            revision="4f81e3e09edd82fe3c5f636444c721b592a735ca",
            megabytes=16592,
        ),
        WeightsFile(
            "base",
            patterns=QWEN_FILES,
            layouts=(("config.json", *SAVED_TOKENIZER_FILES),),
            hub="Qwen/Qwen2-VL-7B-Instruct",
            revision="eed13092ef92e448dd6875b2a00151bd3f7db0ac",
            megabytes=4.5,
        ),
    ),
    paper=HPSV3_PAPER,
    citation="Ma et al. 2025, HPSv3: Towards Wide-Spectrum Human Preference Score",
    licence="Apache-2.0",
)

IMAGEREWARD = RewardInfo(
    name="imagereward",
    entry="rewards.models.imagereward:ImageReward",
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

VQASCORE = RewardInfo(
    name="vqascore",
    entry="rewards.models.vqascore:VqaScore",
    family="clip-flant5",
    profile="llava-336",
    scale='likelihood of "Yes" to whether the picture shows the prompt',
    weights=(
        WeightsFile(
            "model",
            patterns=CLIP_FLANT5_FILES,
            layouts=SAVED_MODEL_FILES,
            hub="zhiqiulin/clip-flant5-xl",
            revision="3b4a6b1b618f4e286f5353b5b5147a3ae7d9ec55",
            megabytes=6320,
        ),
        CLIP_336_SIZES,
        WeightsFile(
            "tokenizer",
            file="tokenizer.json",
            hub="google/flan-t5-xl",
            revision="7d6315df2c2fb742f0f5b556879d730926ca9001",
            megabytes=2.4,
        ),
    ),
    paper="https://arxiv.org/abs/2404.01291",
    citation="Lin et al. 2024, Evaluating Text-to-Visual Generation with Image-to-Text Generation",
    licence="Apache-2.0",
)

VQASCORE_XXL = replace(
    VQASCORE,
    name="vqascore-xxl",
    weights=(
        replace(VQASCORE.weights[0], hub="zhiqiulin/clip-flant5-xxl", revision="main", megabytes=22920),
        CLIP_336_SIZES,
        replace(
            VQASCORE.weights[2],
            hub="google/flan-t5-xxl",
            revision="ae7c9136adc7555eeccc78cdd960dfd60fb346ce",
        ),
    ),
)

PUBLISHED_REWARDS = (
    AESTHETIC_V1,
    AESTHETIC_V2,
    AESTHETIC_V25,
    CLIP,
    CLIP_HESSEL,
    CLIP_LOGITS,
    CLIP_COSINE,
    SIGLIP,
    SIGLIP_2,
    CLIP_IQA,
    PICKSCORE,
    HPSV2,
    HPSV2_ANTIALIAS,
    HPSV2_1,
    HPSV2_1_ANTIALIAS,
    MPS,
    HPSV3,
    IMAGEREWARD,
    VQASCORE,
    VQASCORE_XXL,
    JPEG_SMALL,
    JPEG,
)
