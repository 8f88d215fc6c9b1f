"""The official packages image-reward and hpsv2, in a locked environment of their own.

Neither runs beside today's transformers and timm, so their code is run by an interpreter of its own, on
checkpoints and pictures that it is given (`run`), and only as what native rewards are compared with.
"""
