"""Diffusion pipelines: loading, conditioning, sampling."""
