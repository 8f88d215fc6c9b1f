"""The official packages image-reward and hpsv2, in a separate, locked environment.

Neither runs beside today's transformers and timm. So a separate interpreter runs their code on checkpoints
and images that it is given (`environment.run_official`), and native rewards are compared with its scores.
"""
