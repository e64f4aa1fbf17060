"""How often the embedded model itself is wrong: its samples at each view of text-to-3D, measured in 2D.

    python -m benchmarks.views --out DIR                      # 48 captions that training saw, 24 it did not, every view
    python -m benchmarks.views --out DIR --model FOLDER       # other weights, a folder in diffusers' format
    python -m benchmarks.views --out DIR --views-each 2       # each caption at two of the views, in turn
    python -m benchmarks.views --out DIR --truth              # true renders instead: what the measure itself gets wrong

Each caption is sampled with the view prompts of text-to-3D (`…, low front view`), and each picture held against the
nearest true render of its caption (benchmarks/terms/measures.py): shape, bodies, ground and colours, and whether that
render's camera stands as high as the words say. A batch's pictures (batches/NUMBER.png) and measures (NUMBER.json) are
kept, and the same command continues. results.md has the tables, results.json their numbers; failures.png shows what is
not right, and heights.png what is right from another height than asked for, each beside its nearest true render.

The height is that of the nearest true render by colour. Where a sample has its stripes in wrong places, that render may
be tilted to meet them: of 60 samples at least two striped cones, low in the picture, were found at 40°. Look at
heights.png before the model is blamed; plain solids are not concerned, and true renders are not (`--truth`).
"""
