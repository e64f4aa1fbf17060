"""StyleGAN adaptation: a generator of pictures is moved to another domain by a prompt (docs/stylegan_adaptation.md)."""
