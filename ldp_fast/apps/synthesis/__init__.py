"""Images from prompts, by optimising latents under the prior (paper §5.4), and the ablation of its terms."""
