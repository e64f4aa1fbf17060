"""What `ldp-fast adapt` makes of the embedded generator, with the truth as the judge: docs/stylegan_adaptation.md.

    python -m benchmarks.adaptation --out DIR --page                 # six targets, three guidances
    python -m benchmarks.adaptation --out DIR --limit-minutes 30     # half an hour of it; the same command continues
    python -m benchmarks.adaptation --out DIR --variants lsd --targets "a green cone"
    python -m benchmarks.adaptation --out DIR --seeds 0 1 2 --repeat ldp lsd         # two of the guidances thrice
    python -m benchmarks.adaptation --out DIR --variant "ldp@gs2.5=--guidance ldp --guidance-scale 2.5" "a purple cube"

A cell is one target, one way of guidance and one seed: `ldp-fast adapt` makes it (runs/NAME, which is a run as any
other), and 500 pictures of its generator are measured (cells/NAME.json, NAME.png). What other code has made is made
anew (made_by.py), and no table has it. Another setting (`--variant`) stands in a table of its own.

Every cell shows the same z's. What the source shows for a z is known: azimuth, elevation, distance, grey. So the
target's solid can be rendered as that z asks for it, and what a perfect adaptation would show is there to compare with:
the row `true renders`.
"""
