"""Write a reward, check that it behaves like every other one, and use it with its gradient.

    python examples/custom_reward.py

The same file works on the command line:

    tcbench run --model micro --rewards examples/custom_reward.py:Contrast
"""

import torch
from torch import Tensor

import rewards
from rewards.verification import contract


@rewards.register(
    rewards.RewardInfo("contrast", uses_prompt=False, scale="standard deviation of brightness, 0 to 0.5")
)
class Contrast(rewards.Reward):
    """Standard deviation of an image's brightness."""

    def _score(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        # pixels: (B, 3, H, W), RGB in [0, 1]; one score per image is expected, (B,)
        weights = torch.tensor([0.299, 0.587, 0.114], device=pixels.device)
        brightness = (pixels * weights[:, None, None]).sum(dim=1)
        return brightness.flatten(1).std(dim=1)


if __name__ == "__main__":
    reward = rewards.load("contrast")

    # Check batches, permutations, PIL images, gradients and precisions. Raises AssertionError on a failure.
    contract.check(reward)

    images = torch.full((1, 3, 64, 64), 0.5) + 0.02 * torch.randn(1, 3, 64, 64)
    for step in range(5):
        images.requires_grad_()
        score = reward.score(images)
        (gradient,) = torch.autograd.grad(score.sum(), images)
        print(f"step {step}: contrast {score.item():.4f}")
        images = (images + 0.1 * gradient / gradient.abs().amax()).detach().clamp(0, 1)
