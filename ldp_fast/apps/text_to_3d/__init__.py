"""Text-to-3D (paper §4.1, §5.1): a latent radiance field, optimised under the prior from random cameras."""
