"""Networks that several rewards share: CLIP and SigLIP towers, BLIP, score heads, tokenizers."""
