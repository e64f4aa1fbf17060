"""What each term of the loss does to pictures, with the truth as the judge: docs/what_the_terms_do.md.

    python -m benchmarks.terms --out DIR --page              # everything, the most deciding cells first
    python -m benchmarks.terms --out DIR --limit-minutes 60  # an hour of it; the same command continues
    python -m benchmarks.terms --out DIR --only fm kl        # some groups of cells
    python -m benchmarks.terms --out DIR --only --page       # the page of what is there
    python -m benchmarks.terms --out DIR --only --objects 16 # objects of 16 prompts: LSD, + FM, + KL, all three

A cell is one choice of settings, and optimises the latents of N random prompts of the embedded world. Its latents are
kept (cells/NAME.safetensors) and measured (NAME.json, NAME.png); a record by other measures or another judge is made
anew from them. Everything comes from a seed and a step, and pictures of two cells differ by their settings alone.
"""
