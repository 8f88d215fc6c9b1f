"""TextCraftor: tuning the text encoders of diffusion pipelines by differentiable rewards."""
